"""Read tables (parquet, CSV, JSON lines): dialects, types, paths and a split column; refuse damaged ones."""

import json
import logging

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from modeling_clipscratch.data.columns import DataOptions
from modeling_clipscratch.data.dataset import ImageReader
from modeling_clipscratch.data.load import load_data
from modeling_clipscratch.data.sources.table_files import by_split_column
from modeling_clipscratch.data.splits import Split

TEXT = datasets.Value("string")


@pytest.fixture
def write_parquet(encode):
    def write(path, columns: dict, features: dict):
        path.parent.mkdir(parents=True, exist_ok=True)
        count = len(next(iter(columns.values())))
        images = [{"bytes": encode(("red", "blue")[i % 2]), "path": None} for i in range(count)]
        features = datasets.Features({"img": datasets.Image()} | features)
        datasets.Dataset.from_dict({"img": images} | columns, features=features).to_parquet(str(path))
        return path

    return write


def colour(dataset, row):
    return ImageReader(dataset)(row).getpixel((0, 0))


def test_parquet_with_class_labels_is_read_as_cifar10_is_published(tmp_path, load, write_parquet):
    label = {"label": datasets.ClassLabel(names=["air_plane", "cat"])}
    write_parquet(tmp_path / "set" / "plain_text" / "train-00000-of-00001.parquet", {"label": [1, 0, 1]}, label)
    train = load(tmp_path / "set")
    assert (train.features["label"].names, train["label"][:]) == (["air plane", "cat"], [1, 0, 1])
    assert train["key"][:] == ["row-00000000", "row-00000001", "row-00000002"]
    assert colour(train, 1) == (0, 0, 255)


def test_images_in_parquet_that_are_paths_start_from_the_table(pictures, load):
    features = datasets.Features({"image": datasets.Image(), "text": TEXT})
    columns = {"image": [{"bytes": None, "path": f"images/{name}.png"} for name in "ab"], "text": ["x", "y"]}
    table = pa.table(columns, features.arrow_schema)  # `to_parquet` would put the files in
    pq.write_table(table, pictures / "train.parquet")
    assert load(pictures)["key"][:] == ["images/a.png", "images/b.png"]
    (pictures / "train.parquet").rename(pictures / "metadata.parquet")
    assert colour(load(pictures), 1) == (0, 0, 255)


DIALECTS = {
    "commas": 'image,caption\na.png,NA\nb.png,"two, or\nthree"\n',
    "semicolons": "image;caption\na.png;NA\nb.png;two, or three\n",
    "tabs": "image\tcaption\na.png\tNA\nb.png\ttwo, or three\n",
    "Kaggle's results.csv": "image_name| comment_number| comment\na.png| 0| NA\nb.png| 0| two, or three\n",
    "quotes within": 'image|caption\na.png|NA\nb.png|"two, or three"\n',
    "an index": ',image,caption\n0,a.png,NA\n1,b.png,"two, or three"\n',
    "lines of Windows and empty lines": 'image,caption\r\na.png,NA\r\n\r\nb.png,"two, or three"\r\n',
    "UTF-8 with a mark": b'\xef\xbb\xbfimage,caption\na.png,NA\nb.png,"two, or three"\n',
    "UTF-16": 'image,caption\na.png,NA\nb.png,"two, or three"\n'.encode("utf-16"),
}


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".CSV"])
@pytest.mark.parametrize("content", DIALECTS.values(), ids=DIALECTS)
def test_dialects_of_csv(load, pictures, content, ending):
    path = pictures / f"rows{ending}"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    train = load(path)
    assert train["key"][:] == ["a.png", "b.png"]
    assert [" ".join(text.split()) for (text,) in train["captions"]] == ["NA", "two, or three"]  # NA is a word


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\n"
BAD_TABLES = {  # name of the file -> content and words of the sentence
    "rows.csv": {
        "image,caption\na.png,a dog, running\nb.png,x\n": "line 2: 3 cells where the header has 2 .*; put .* quotes",
        "image,caption\na.png,x,y\nb.png,x,y\n": "line 2: 3 cells",
        'image,caption\na.png,"x\ny"\n\nb.png,x,y\n': "rows.csv, line 5: 3 cells",
        "image,caption,id\na.png,x,1\nb.png,x\n": "line 3: 2 cells where the header has 3",
        "image_name| n| comment\na.png| 0| x\nb.png| 4   y\n": "line 3: 2 cells",  # Kaggle's broken row
        'image,caption\na.png,x\nb.png,"y\na.png,z\n': "rows.csv, line 3: .* a quote is not closed",
        "image,caption\na.png,x\nb.png,café\n".encode("latin1"): "rows.csv, line 3: is no UTF-8; save",
        "image,caption,caption\na.png,x,y\n": "two columns are called 'caption'",
        "": "rows.csv: its first line is empty, and names no columns",
        "image,caption\n": "split train: no rows",
        POINTER: "rows.csv: is a Git LFS pointer",
        f"image,caption\n/9j/{'A' * 5000},x\n": r"/9j/AAA.*\(50.. characters; base64 must become bytes",
    },
    "rows.jsonl": {
        '{"image": "a.png", "text": "café"}'.encode("latin1"): "rows.jsonl, line 1: is no UTF-8",
        '{"image": "a.png", "text": "x"}\n{"image": ': "rows.jsonl, line 2: is no JSON",
    },
    "rows.parquet": {
        "no parquet": "rows.parquet: cannot be read as parquet",
        POINTER: "rows.parquet: cannot be read as parquet .it is a Git LFS pointer: git lfs pull",
    },
}


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [(name, *case) for name, cases in BAD_TABLES.items() for case in cases.items()],
    ids=lambda value: str(value)[:30],
)
def test_a_table_that_is_not_whole_is_named(load, pictures, name, content, sentence):
    path = pictures / "images" / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=sentence) as error:
        load(path)
    assert len(str(error.value)) < 600


def test_types_are_those_of_the_whole_file(load, pictures):
    names = [f"images/{name}.png" for name in "abc"]
    lines = [
        *(f"{name},{row % 3},1" for row, name in enumerate(names)),
        *(f"images/{row}.png,{row % 3},1" for row in range(10_050)),
    ]
    (pictures / "rows.csv").write_text("\n".join(["image,label,unused", *lines, "images/z.png,letter,0.5"]))
    assert load(pictures / "rows.csv").features["label"].names == ["0", "1", "2", "letter"]
    rows = [{"image": name, "text": None, "unused": 1} for name in names]
    rows += [{"image": f"images/{row}.png", "text": "x" * 2000, "unused": 1} for row in range(10_050)]
    rows += [{"image": "images/z.png", "text": "x", "unused": "letter"}]
    (pictures / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert len(load(pictures / "rows.jsonl", on_bad_row="skip")) == 10_051


def test_shards_may_differ_in_columns_that_nobody_uses(load, pictures):
    for name, other in (("a", 1), ("b", "letter"), ("c", None)):
        row = {"image": f"images/{name}.png", "text": None if name == "a" else name, "other": other}
        (pictures / f"train-{name}.jsonl").write_text(json.dumps(row))
    assert load(pictures, on_bad_row="skip")["captions"][:] == [["b"], ["c"]]
    (pictures / "train-d.jsonl").write_text('{"image": "images/a.png"}')
    with pytest.raises(ValueError, match="train-a.jsonl: the other files have other columns"):
        load(pictures)


def test_json_lines_and_lists_are_read(load, pictures):
    rows = [{"file_name": "images/a.png", "captions": ["x", "y"]}, {"file_name": "images/c.png", "captions": ["z"]}]
    (pictures / "train.jsonl").write_text("\ufeff" + "\n".join(map(json.dumps, rows)))
    (pictures / "test.json").write_text(json.dumps(rows[1:]))
    assert load(pictures)["captions"][:] == [["x", "y"], ["z"]]
    assert load(pictures / "test.json", "test")["captions"][:] == [["z"]]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"split_column": "part"}, "split_column='part' is not there; the columns are image, caption"),
        ({"image_root": "/no/such"}, "image_root='/no/such' is no folder"),
    ],
)
def test_a_split_column_or_image_root_that_is_not_there_is_named(load, pictures, options, sentence):
    (pictures / "train.csv").write_text("image,caption\nimages/a.png,one\n")
    with pytest.raises(ValueError, match=sentence):
        load(pictures, **options)


ROWS = [("a", "train"), ("b", "val"), ("c", "test")]


@pytest.mark.parametrize("name", ["captions.csv", "metadata.csv", "metadata.jsonl", "rows.parquet", "train.csv"])
def test_a_split_column_is_honoured(load, pictures, name):
    rows = [{"image": f"images/{key}.png", "text": key, "split": split} for key, split in ROWS]
    table, path = datasets.Dataset.from_list(rows), str(pictures / name)
    {"csv": table.to_csv, "jsonl": table.to_json, "parquet": table.to_parquet}[name.partition(".")[2]](path)
    for split, texts in (("train", [["a"]]), ("validation", [["b"]]), ("test", [["c"]])):
        assert load(pictures, split)["captions"][:] == load(path, split)["captions"][:] == texts
    assert len(load(pictures, split_column="none")) == 3


def test_a_split_column_of_another_name_and_of_other_words(load, pictures):
    (pictures / "rows.csv").write_text(
        "image,text,part\nimages/a.png,x,train\nimages/b.png,y,Restval\nimages/c.png,z,train\n"
    )
    assert load(pictures, "Restval", split_column="part")["key"][:] == ["images/b.png"]
    assert len(load(pictures)) == 3


def test_a_split_column_is_honoured_in_a_stream_and_in_image_tables(tmp_path, load, write_parquet):
    columns = {"text": ["a", "b", "c"], "split": ["train", "dev", "train"]}
    path = write_parquet(tmp_path / "rows.parquet", columns, {"text": TEXT, "split": TEXT})
    streams = load_data(path, streaming=True)
    assert {split: [row["captions"] for row in stream] for split, stream in streams.items()} == {
        "train": [["a"], ["c"]],
        "validation": [["b"]],
    }
    assert load(path, "validation")["captions"][:] == [["b"]]


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({"rows.csv": ["train", ""]}, "rows.csv: row 2 names no split in column 'split'; .* --split_column none"),
        (
            {"train.csv": ["train", "test"], "test.csv": ["test"]},
            "train.csv: belongs to train, .* column 'split' says test",
        ),
    ],
)
def test_a_split_column_with_gaps_or_against_the_file_name_is_refused(load, pictures, files, sentence):
    for name, splits in files.items():
        lines = [f"images/{key}.png,x,{split}" for key, split in zip("ab", splits, strict=False)]
        (pictures / name).write_text("\n".join(["image,text,split", *lines]))
    with pytest.raises(ValueError, match=sentence):
        load(pictures)


def test_by_split_column_leaves_a_source_without_one_as_it_is():
    table = datasets.Dataset.from_dict({"image": ["a.png"], "text": ["a"]})
    source = {"train": Split(lambda: table, "here")}
    assert by_split_column(source, DataOptions()) == source


@pytest.mark.parametrize("place", ["Images", "flickr30k_images/flickr30k_images"])
def test_images_in_a_folder_beside_the_table_are_found(load, pictures, place, caplog):
    (pictures / place).mkdir(parents=True)
    for path in (pictures / "images").iterdir():
        path.rename(pictures / place / path.name)
    (pictures / "captions.csv").write_text("image,caption\nb.png,one\na.png,two\n")
    with caplog.at_level(logging.INFO):
        train = load(pictures)
    assert train["key"][:] == load(pictures / "captions.csv")["key"][:] == ["b.png", "a.png"]
    assert colour(train, 0) == (0, 0, 255)
    assert f"captions.csv names images in {pictures / place}" in caplog.text


def test_image_root_says_where_paths_start(load, pictures, tmp_path):
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "captions.csv").write_text("image,caption\nb.png,one\n")
    with pytest.raises(ValueError, match="--image_root names another folder"):
        load(tmp_path / "tables")
    train = load(tmp_path / "tables", image_root=str(pictures / "images"))
    assert (train["key"][:], colour(train, 0)) == (["b.png"], (0, 0, 255))


def test_reading_tables_shows_no_bar_of_a_builder(load, pictures, write_parquet, capfd):
    datasets.enable_progress_bars()  # a command that another test ran has turned them off
    (pictures / "train.csv").write_text("image,caption\nimages/a.png,one\n")
    (pictures / "test.jsonl").write_text('{"image": "images/a.png", "caption": "one"}')
    path = write_parquet(pictures.parent / "val.parquet", {"text": ["one"]}, {"text": TEXT})
    capfd.readouterr()  # writing shows a bar
    load(pictures), load(pictures / "test.jsonl", "test"), load(path, "validation")
    printed = "".join(capfd.readouterr())
    assert "Generating" not in printed and "Downloading" not in printed  # equal images are searched for with a bar


def test_flickr8k_captions_are_grouped_by_image(shared_folder, load):
    train = load(shared_folder / "flickr8k_fullsize" / "captions.csv")
    assert (len(train), {len(captions) for captions in train["captions"]}) == (60, {5})
    assert load(shared_folder / "flickr8k_fullsize")["key"][:] == train["key"][:]


def test_tables_are_found_by_any_name_that_a_system_allows(load, tmp_path, encode):
    folder = tmp_path / "photos [1]"
    folder.mkdir()
    (folder / "a.png").write_bytes(encode())
    (folder / "ROWS.CSV").write_text("image,caption\na.png,one\n")
    (folder / "._ROWS.CSV").write_bytes(b"of macOS")
    assert load(folder)["captions"][:] == [["one"]]


@pytest.mark.parametrize("as_dict", [True, False])
def test_what_save_to_disk_wrote_is_read(tmp_path, load, encode, as_dict):
    features = datasets.Features({"image": datasets.Image(), "text": TEXT})
    rows = {"image": [{"bytes": encode(), "path": None}] * 2, "text": ["a", "b"]}
    saved = datasets.Dataset.from_dict(rows, features=features)
    (datasets.DatasetDict({"train": saved, "val": saved.select([0])}) if as_dict else saved).save_to_disk(
        tmp_path / "set"
    )
    assert load(tmp_path / "set")["captions"][:] == [["a", "b"]]
    if as_dict:
        assert load(tmp_path / "set", "validation")["captions"][:] == [["a"]]
    next((tmp_path / "set").rglob("data-*.arrow")).write_bytes(b"damaged")
    with pytest.raises(ValueError, match="save_to_disk's files cannot be read"):
        load(tmp_path / "set")
