"""Parquet, CSV and JSON-lines tables go in; the columns that are found, and the words where none is, are checked."""

import json
import multiprocessing
import pickle

import datasets
import numpy as np
import pytest

from modeling_clipscratch.data import BadImageError, load_rows


@pytest.fixture
def load(tmp_path):
    def load_here(path, split="train", **options):
        options = {"validation_fraction": 0, "cache_dir": str(tmp_path / "cache")} | options
        return load_rows(str(path), split, **options)

    return load_here


@pytest.fixture
def pictures(tmp_path, encode):
    folder = tmp_path / "set"
    (folder / "images").mkdir(parents=True)
    for name, colour in (("a.png", "red"), ("b.png", "blue"), ("c.png", "lime")):
        (folder / "images" / name).write_bytes(encode(colour))
    return folder


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


TEXT = datasets.Value("string")


def test_parquet_with_class_labels_is_read_as_cifar10_is_published(tmp_path, load, write_parquet):
    label = {"label": datasets.ClassLabel(names=["air_plane", "cat"])}
    write_parquet(tmp_path / "set" / "plain_text" / "train-00000-of-00001.parquet", {"label": [1, 0, 1]}, label)
    write_parquet(tmp_path / "set" / "plain_text" / "test-00000-of-00001.parquet", {"label": [0]}, label)
    rows = load(tmp_path / "set")
    assert (rows.kind, rows.class_names, rows.labels.tolist()) == ("class", ["air plane", "cat"], [1, 0, 1])
    assert rows.read_image(1).getpixel((0, 0)) == (0, 0, 255)
    assert rows[0]["captions"] == ["a photo of a cat."]
    assert len(load(tmp_path / "set", "test")) == 1


def test_numbered_caption_columns_are_taken_together(tmp_path, load, write_parquet):
    columns = {f"caption_{i}": [f"picture {row}, caption {i}" for row in range(2)] for i in range(5)}
    path = write_parquet(tmp_path / "train.parquet", columns, dict.fromkeys(columns, TEXT))
    assert load(path).captions[1] == [f"picture 1, caption {i}" for i in range(5)]


def test_caption_lists_are_taken_whole(tmp_path, load, write_parquet):
    columns = {"captions": [["one", " two "], ["three", ""]], "id": ["x", "y"]}
    path = write_parquet(tmp_path / "train.parquet", columns, {"captions": datasets.List(TEXT), "id": TEXT})
    assert load(path).captions == [["one", "two"], ["three"]]


def test_fine_labels_win_over_coarse_ones(tmp_path, load, write_parquet):
    names = {"fine_label": datasets.ClassLabel(names=["a", "b"]), "coarse_label": datasets.ClassLabel(names=["c"])}
    path = write_parquet(tmp_path / "train.parquet", {"fine_label": [1], "coarse_label": [0]}, names)
    assert load(path).class_names == ["a", "b"]
    assert load(path, label_column="coarse_label").class_names == ["c"]


def test_parquet_rows_are_read_in_other_processes(tmp_path, load, write_parquet):
    path = write_parquet(tmp_path / "train.parquet", {"text": ["red", "blue"]}, {"text": TEXT})
    rows = pickle.loads(pickle.dumps(load(path)))
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert [image.getpixel((0, 0)) for image in pool.map(rows.read_image, [0, 1])] == [(255, 0, 0), (0, 0, 255)]


def test_corrupt_picture_in_parquet_is_named_by_its_row(tmp_path, load):
    table = datasets.Dataset.from_dict({"image": [{"bytes": b"x", "path": None}], "text": ["a"]})
    table.to_parquet(str(tmp_path / "train.parquet"))
    rows = load(tmp_path / "train.parquet")
    with pytest.raises(BadImageError, match="train: row-00000000: cannot be decoded"):
        rows[0]


def test_several_rows_of_one_picture_become_one_row(load, pictures):
    lines = ["image,caption", "images/a.png,one", "images/b.png,NA", '"images/a.png","two, too"']
    (pictures / "captions.csv").write_text("\n".join(lines))
    rows = load(pictures)
    assert rows.keys == ["images/a.png", "images/b.png"]
    assert rows.captions == [["one", "two, too"], ["NA"]]
    assert rows.read_image(1).getpixel((0, 0)) == (0, 0, 255)


def test_json_lines_are_read(load, pictures):
    lines = [{"file_name": "images/a.png", "captions": ["x", "y"]}, {"file_name": "images/c.png", "captions": ["z"]}]
    (pictures / "train.jsonl").write_text("\n".join(map(json.dumps, lines)))
    rows = load(pictures)
    assert rows.captions == [["x", "y"], ["z"]]
    assert rows.read_image(1).getpixel((0, 0)) == (0, 255, 0)


def test_classes_written_as_words_are_numbered_by_train_in_every_split(load, pictures):
    (pictures / "train.csv").write_text("image,label\nimages/a.png,red\nimages/b.png,blue\n")
    (pictures / "test.csv").write_text("image,label\nimages/c.png,a new class\nimages/a.png,red\n")
    assert (load(pictures).class_names, load(pictures).labels.tolist()) == (["blue", "red"], [1, 0])
    test = load(pictures, "test")
    assert (test.class_names, test.labels.tolist()) == (["blue", "red", "a new class"], [2, 1])
    with pytest.raises(ValueError, match="label 'a new class' is not among the 2 class names"):
        load(pictures, "test", class_names=["red", "blue"])


def test_numbered_classes_need_names(load, pictures):
    (pictures / "train.csv").write_text("image,label\nimages/a.png,0\nimages/b.png,1\n")
    with pytest.raises(ValueError, match="labels in column 'label' are numbers without names"):
        load(pictures)
    with pytest.raises(ValueError, match="label 1 has no class name"):
        load(pictures, class_names=["red"])
    assert load(pictures, class_names=["red", "blue"])[1]["captions"] == ["a photo of a blue."]


def test_picture_with_two_labels_is_refused(load, pictures):
    (pictures / "train.csv").write_text("image,label\nimages/a.png,red\nimages/a.png,blue\n")
    with pytest.raises(ValueError, match="images/a.png is in several rows"):
        load(pictures)


@pytest.mark.parametrize(
    ("header", "options", "sentence"),
    [
        (
            "image,words",
            {},
            "neither captions nor a label among the columns image, words; name one with --caption_column",
        ),
        ("a,caption", {}, "no picture among the columns a, caption; .* --image_column"),
        ("image,path,caption", {}, "columns image, path could all be the picture; choose one with --image_column"),
        ("image,caption,text", {}, "columns caption, text could all be the captions or the label"),
        ("image,caption,label", {}, "columns caption, label could all be .* --caption_column or --label_column"),
        (
            "image,caption",
            {"caption_column": "captoin"},
            "caption_column='captoin' is not there; .* did you mean 'capt",
        ),
        ("image,caption", {"image_column": "zzz"}, "image_column='zzz' is not there; the columns are image, caption"),
        (
            "image,caption",
            {"caption_column": "caption", "label_column": "caption"},
            "are both named; name captions for",
        ),
    ],
)
def test_columns_that_cannot_be_told_are_listed(load, pictures, header, options, sentence):
    cells = ["images/a.png"] * len(header.split(","))
    (pictures / "train.csv").write_text(f"{header}\n{','.join(cells)}\n")
    with pytest.raises(ValueError, match=sentence):
        load(pictures, **options)


def test_named_columns_settle_it(load, pictures):
    (pictures / "train.csv").write_text("a,image,caption,label,text\nimages/b.png,images/a.png,one,two,three\n")
    rows = load(pictures, image_column="a", caption_column="text")
    assert (rows.keys, rows.captions) == (["images/b.png"], [["three"]])
    assert load(pictures, image_column="image", label_column="label").class_names == ["two"]


def test_picture_that_is_not_there_is_named(load, pictures):
    (pictures / "train.csv").write_text("image,caption\nimages/nowhere.png,one\n")
    with pytest.raises(ValueError, match="names the picture .*nowhere.png, which is not there, .* relative"):
        load(pictures)


def test_row_without_caption_or_label_is_named(load, pictures):
    (pictures / "train.csv").write_text("image,caption\nimages/a.png,one\nimages/b.png,\n")
    with pytest.raises(ValueError, match="row images/b.png has no caption"):
        load(pictures)
    (pictures / "train.csv").write_text("image,label\nimages/a.png,one\nimages/b.png,\n")
    with pytest.raises(ValueError, match="row 1 has no label in column 'label'"):
        load(pictures)


def test_unreadable_table_is_named(load, pictures):
    (pictures / "train.parquet").write_bytes(b"not parquet")
    with pytest.raises(ValueError, match="train.parquet: cannot be read as parquet"):
        load(pictures)


def test_fingerprint_follows_table_and_pictures(load, pictures, encode):
    (pictures / "train.csv").write_text("image,caption\nimages/a.png,one\n")
    first = load(pictures).fingerprint
    assert load(pictures).fingerprint == first
    (pictures / "images" / "a.png").write_bytes(encode("lime", size=(99, 9)))
    second = load(pictures).fingerprint
    (pictures / "train.csv").write_text("image,caption\nimages/a.png,another\n")
    assert len({first, second, load(pictures).fingerprint}) == 3


def test_reading_tables_says_nothing(load, pictures, capfd):
    datasets.enable_progress_bars()  # a command that another test ran has turned them off
    (pictures / "train.csv").write_text("image,caption\nimages/a.png,one\n")
    load(pictures)
    assert capfd.readouterr() == ("", "")


def test_flickr8k_captions_are_grouped_by_picture(shared_folder, load):
    rows = load(shared_folder / "flickr8k_fullsize" / "captions.csv")
    assert (len(rows), {len(captions) for captions in rows.captions}) == (60, {5})
    assert np.array([rows.read_image(i).size for i in range(3)]).max() == 500
    assert load(shared_folder / "flickr8k_fullsize").keys == rows.keys


def test_tables_are_found_by_any_name_that_a_system_allows(load, tmp_path, encode):
    folder = tmp_path / "photos [1]"
    folder.mkdir()
    (folder / "a.png").write_bytes(encode())
    (folder / "ROWS.CSV").write_text("image,caption\na.png,one\n")
    (folder / "._ROWS.CSV").write_bytes(b"of macOS")
    assert load(folder).captions == [["one"]]


def test_image_column_of_numbers_is_refused(load, pictures):
    (pictures / "train.csv").write_text("id,image,caption\n7,images/a.png,one\n")
    with pytest.raises(ValueError, match="image_column='id' holds .*, neither pictures nor paths"):
        load(pictures, image_column="id")


@pytest.mark.parametrize("as_bytes", [False, True])
def test_pictures_inside_a_table_that_repeat_are_one_row(tmp_path, load, encode, as_bytes):
    cells = [encode("red"), encode("blue"), encode("red"), None, None]
    kind = datasets.Value("binary") if as_bytes else datasets.Image()
    cells = cells if as_bytes else [cell and {"bytes": cell, "path": f"{row}.png"} for row, cell in enumerate(cells)]
    columns = {"image": cells, "text": ["a rose", "the sea", "a fire", "lost", "gone"]}
    features = datasets.Features({"image": kind, "text": datasets.Value("string")})
    datasets.Dataset.from_dict(columns, features=features).to_parquet(tmp_path / "train.parquet")
    rows = load(tmp_path / "train.parquet")
    assert rows.captions == [["a rose", "a fire"], ["the sea"], ["lost"], ["gone"]]
    assert rows.keys == ["row-00000000", "row-00000001", "row-00000003", "row-00000004"]
    assert rows.read_image(1).getpixel((0, 0)) == (0, 0, 255)
    with pytest.raises(BadImageError, match="row-00000003: has no picture"):
        rows.read_image(2)


def test_one_picture_of_many_that_is_missing_is_told_when_it_is_read(load, pictures):
    (pictures / "train.csv").write_text("image,caption\nimages/a.png,one\nimages/nowhere.png,two\n")
    rows = load(pictures)
    with pytest.raises(BadImageError, match="nowhere.png: there is no such picture"):
        rows.read_image(1)
    before = rows.fingerprint
    (pictures / "images" / "nowhere.png").write_bytes((pictures / "images" / "a.png").read_bytes())
    assert load(pictures).fingerprint != before


def test_blanks_around_a_label_make_no_class(load, pictures):
    (pictures / "train.csv").write_text("image,label\nimages/a.png,dog\nimages/b.png,dog \nimages/c.png, cat\n")
    rows = load(pictures)
    assert (rows.class_names, rows.labels.tolist()) == (["cat", "dog"], [1, 1, 0])
