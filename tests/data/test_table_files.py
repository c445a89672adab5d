"""Read tables (parquet, CSV, JSON) and caption files: dialects, types, paths and splits, and name damaged ones."""

import json

import datasets
import pytest

from modeling_clipscratch.data.dataset import ImageReader
from modeling_clipscratch.data.load import load_data
from tests.data.conftest import images

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


@pytest.mark.parametrize(("number", "content"), [*enumerate(DIALECTS.values())], ids=DIALECTS)
def test_dialects_of_csv(load, image_folder, number, content):
    path = image_folder / f"rows{('.csv', '.tsv', '.CSV')[number % 3]}"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    train = load(path)
    assert train["key"][:] == ["a.png", "b.png"]
    assert [" ".join(text.split()) for (text,) in train["captions"]] == ["NA", "two, or three"]  # NA is a word


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\n"
BAD_TABLES = {  # name of the file -> content and a part of the error
    "rows.csv": {
        "image,caption\na.png,a dog, running\nb.png,x\n": "line 2: expected 2 columns, got 3: a.png.* double quotes",
        "image,caption\na.png,x,y\nb.png,x,y\n": "line 2: expected 2 columns, got 3: a.png,x,y",
        'image,caption\na.png,"x\ny"\n\nb.png,x,y\n': "line 5: expected 2 columns, got 3: b.png",
        "image,caption,id\na.png,x,1\nb.png,x\n": "line 3: expected 3 columns, got 2: b.png,x",
        "image_name| n| comment\na.png| 0| x\nb.png| 4   y\n": "expected 3 columns, got 2",  # Kaggle's broken row
        'image,caption\na.png,x\nb.png,"y\na.png,z\n': "rows.csv: cannot be read .unexpected end of data.*quotes",
        'image,caption\na.png,"x\nb.png,"y"\n': "rows.csv: cannot be read .*quotes",
        "image,caption\na.png,x\nb.png,café\n".encode("latin1"): "rows.csv, line 3: is not UTF-8; save",
        "image,caption,caption\na.png,x,y\n": "two columns have one name: image, caption, caption",
        "": "rows.csv: cannot be read .it is empty",
        "image,caption\n": "split train: no rows",
        POINTER: "rows.csv: is a Git LFS pointer",
        f"image,caption\n/9j/{'A' * 5000},x\n": r"/9j/AAA.* which is missing",
    },
    "rows.jsonl": {
        '{"image": "a.png", "text": "café"}'.encode("latin1"): "rows.jsonl, line 1: is not UTF-8",
        '{"image": "a.png", "text": "x"}\n{"image": ': "rows.jsonl: cannot be read .Expecting value: line 2",
        "1\n2\n": "rows.jsonl: cannot be read",
    },
    "rows.parquet": {
        "no parquet": "rows.parquet: cannot be read .*git lfs pull, if it is a Git LFS pointer",
    },
}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [(name, *case) for name, cases in BAD_TABLES.items() for case in cases.items()],
    ids=lambda value: str(value)[:30],
)
def test_a_table_that_is_not_whole_is_named(load, image_folder, name, content, message):
    path = image_folder / "images" / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message) as error:
        load(path)
    assert len(str(error.value)) < 600


def test_types_are_those_of_the_whole_file(load, image_folder):
    names = [f"images/{name}.png" for name in "abc"]
    lines = [
        *(f"{name},{row % 3},1" for row, name in enumerate(names)),
        *(f"images/{row}.png,{row % 3},1" for row in range(10_050)),
    ]
    (image_folder / "rows.csv").write_text("\n".join(["image,label,unused", *lines, "images/z.png,letter,0.5"]))
    assert load(image_folder / "rows.csv").features["label"].names == ["0", "1", "2", "letter"]
    rows = [{"image": name, "text": None, "unused": 1} for name in names]
    rows += [{"image": f"images/{row}.png", "text": "x" * 2000, "unused": 1} for row in range(10_050)]
    rows += [{"image": "images/z.png", "text": "x", "unused": "letter"}]
    (image_folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert len(load(image_folder / "rows.jsonl", on_bad_row="skip")) == 10_051


def test_shards_may_lack_columns_and_raise_where_types_differ(load, image_folder):
    for name, other in (("a", {}), ("b", {"other": 1}), ("c", {})):
        row = {"image": f"images/{name}.png", "text": None if name == "a" else name} | other
        (image_folder / f"train-{name}.jsonl").write_text(json.dumps(row))
    assert load(image_folder, on_bad_row="skip")["captions"][:] == [["b"], ["c"]]
    (image_folder / "train-d.jsonl").write_text('{"image": "images/a.png", "other": "letter"}')
    with pytest.raises(ValueError, match="train-a.jsonl: cannot be read .*Field other has incompatible types"):
        load(image_folder)


def test_json_lines_and_lists_are_read(load, image_folder):
    rows = [{"file_name": "images/a.png", "captions": ["x", "y"]}, {"file_name": "images/c.png", "captions": ["z"]}]
    (image_folder / "train.jsonl").write_text("\ufeff" + "\n".join(map(json.dumps, rows)))
    (image_folder / "test.json").write_text(json.dumps(rows[1:]))
    assert load(image_folder)["captions"][:] == [["x", "y"], ["z"]]
    assert load(image_folder / "test.json", "test")["captions"][:] == [["z"]]


ROWS = [("a", "train"), ("b", "val"), ("c", "test")]


@pytest.mark.parametrize("name", ["captions.csv", "metadata.csv", "metadata.jsonl", "rows.parquet", "train.csv"])
def test_a_split_column_is_honoured(load, image_folder, name):
    rows = [{"image": f"images/{key}.png", "text": key, "split": split} for key, split in ROWS]
    table, path = datasets.Dataset.from_list(rows), str(image_folder / name)
    {"csv": table.to_csv, "jsonl": table.to_json, "parquet": table.to_parquet}[name.partition(".")[2]](path)
    for split, texts in (("train", [["a"]]), ("validation", [["b"]]), ("test", [["c"]])):
        assert load(image_folder, split)["captions"][:] == load(path, split)["captions"][:] == texts
    assert len(load(image_folder, split_column="none")) == 3


def test_a_split_column_of_another_name_and_of_other_words(load, image_folder):
    (image_folder / "rows.csv").write_text(
        "image,text,part\nimages/a.png,x,train\nimages/b.png,y,Restval\nimages/c.png,z,train\n"
    )
    assert load(image_folder, "Restval", split_column="part")["key"][:] == ["images/b.png"]
    assert len(load(image_folder)) == 3


def test_a_split_column_is_honoured_in_image_tables_and_no_stream_mixes_its_splits(tmp_path, load, write_parquet):
    columns = {"text": ["a", "b", "c"], "split": ["train", "dev", "train"]}
    path = write_parquet(tmp_path / "rows.parquet", columns, {"text": TEXT, "split": TEXT})
    assert load(path, "validation")["captions"][:] == [["b"]]
    with pytest.raises(ValueError, match="rows.parquet, split train is not streamed"):
        load_data(path, streaming=True)


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        (
            {"rows.csv": ["train", ""]},
            {},
            "rows.csv: row 2 has the split '', by its column 'split'.*--split_column none",
        ),
        (
            {"train.csv": ["train", "test"], "test.csv": ["test"]},
            {},
            "train.csv: row 2 has the split 'test', by its column 'split', .* in a file of train",
        ),
        (
            {"rows.csv": ["train"]},
            {"split_column": "part"},
            "split_column='part' is missing; the columns are image, te",
        ),
        ({"rows.csv": ["train"]}, {"image_root": "/no/such"}, "image_root='/no/such' is not a folder"),
    ],
)
def test_a_split_column_with_gaps_or_against_the_file_name_and_missing_ones_raise(
    load, image_folder, files, options, message
):
    for name, splits in files.items():
        lines = [f"images/{key}.png,x,{split}" for key, split in zip("ab", splits, strict=False)]
        (image_folder / name).write_text("\n".join(["image,text,split", *lines]))
    with pytest.raises(ValueError, match=message):
        load(image_folder, **options)


@pytest.mark.parametrize("place", ["Images", "flickr30k_images/flickr30k_images"])
def test_images_in_a_folder_beside_the_table_are_found(load, image_folder, place):
    (image_folder / place).mkdir(parents=True)
    for path in (image_folder / "images").iterdir():
        path.rename(image_folder / place / path.name)
    (image_folder / "captions.csv").write_text("image,caption\nb.png,one\na.png,two\n")
    train = load(image_folder)
    assert train["key"][:] == load(image_folder / "captions.csv")["key"][:] == ["b.png", "a.png"]
    assert colour(train, 0) == (0, 0, 255)


def test_image_root_says_where_paths_start(load, image_folder, tmp_path):
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "captions.csv").write_text("image,caption\nb.png,one\n")
    with pytest.raises(ValueError, match="--image_root names another folder"):
        load(tmp_path / "tables")
    train = load(tmp_path / "tables", image_root=str(image_folder / "images"))
    assert (train["key"][:], colour(train, 0)) == (["b.png"], (0, 0, 255))


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
    with pytest.raises(ValueError, match="set: cannot be read"):
        load(tmp_path / "set")


def coco(*names):
    images = [{"id": number, "file_name": name} for number, name in enumerate(names)]
    captions = [{"image_id": number, "caption": f"{name} {turn}"} for turn in "ab" for number, name in enumerate(names)]
    return json.dumps({"images": images, "annotations": captions})


def karpathy(*rows):
    images = [
        {"filename": name, "filepath": path, "split": split, "sentences": [{"raw": f"{name} a"}, {"raw": f"{name} b"}]}
        for path, name, split in rows
    ]
    return json.dumps({"images": images, "dataset": "coco"})


COCO = {
    "annotations/captions_train2017.json": coco("1.png", "2.png"),
    "annotations/captions_val2017.json": coco("3.png"),
    "annotations/instances_val2017.json": json.dumps({"images": [], "annotations": []}),
}
IN_COCO = [("val2014", "1.png", "restval"), ("train2014", "2.png", "train"), ("val2014", "3.png", "val")]
FLICKR = "Flicker8k_Dataset/1 Flicker8k_Dataset/2 Flicker8k_Dataset/3"  # so it is spelled
IN_FLICKR = [(None, "1.png", "train"), (None, "2.png", "test"), (None, "3.png", "val")]


FORMS = {
    "COCO": (COCO | images("train2017/1 train2017/2 val2017/3"), {"train": "12", "validation": "3"}),
    "COCO with images together": (COCO | images("images/1 images/2 images/3"), {"train": "12", "validation": "3"}),
    "Karpathy's COCO": (
        {"dataset_coco.json": karpathy(*IN_COCO), **images("train2014/2 val2014/1 val2014/3")},
        {"train": "12", "validation": "3"},
    ),
    "Karpathy's Flickr8k": (
        {"dataset_flickr8k.json": karpathy(*IN_FLICKR), **images(FLICKR)},
        {"train": "1", "test": "2", "validation": "3"},
    ),
}


@pytest.mark.parametrize(("files", "expected"), FORMS.values(), ids=FORMS)
def test_images_captions_and_splits(write_files, files, expected):
    data = load_data(write_files(files), validation_fraction=0)
    assert {split: [row["captions"] for row in part] for split, part in data.items()} == {
        split: [[f"{name}.png a", f"{name}.png b"] for name in names] for split, names in expected.items()
    }


def test_a_file_is_read_by_its_path(write_files):
    folder = write_files(FORMS["COCO"][0])
    data = load_data(folder / "annotations" / "captions_val2017.json")
    assert list(data) == ["validation"] and data["validation"]["key"][:] == ["3.png"]


def test_of_files_of_one_name_those_in_the_folder_of_the_split_are_taken(write_files):
    files = {"annotations/captions_train2017.json": coco("1.png", "2.png")}
    files |= {"annotations/captions_val2017.json": coco("1.png")}
    folder = write_files(files | images("train2017/1 train2017/2 val2017/1"))
    (path,) = [cell["path"] for cell in load_data(folder, validation_fraction=0)["validation"]["image"]]
    assert path == str(folder / "val2017" / "1.png")


def test_a_table_that_is_only_called_like_one_is_a_table(write_files, tmp_path):
    rows = [{"image": "1.png", "caption": "a"}]
    folder = write_files({"dataset_train.json": json.dumps(rows), "captions_train.json": "{}", "1.png": None})
    assert len(load_data(folder, validation_fraction=0, cache_dir=str(tmp_path / "cache"))["train"]) == 1
