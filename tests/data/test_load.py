"""Find the source that a name or path means, take its splits, and name what cannot be loaded."""

from functools import partial

import datasets
import pytest

from modeling_clipscratch.data import dataset
from modeling_clipscratch.data.columns import DEFAULT_OPTIONS, DataOptions
from modeling_clipscratch.data.dataset import build_dataset, image_bytes
from modeling_clipscratch.data.load import describe_data, load_data, load_splits
from modeling_clipscratch.data.splits import NoSuchSplitError, Split

# Names and forms


@pytest.mark.parametrize("path", ["./nowhere", "../nowhere/set", "~/nowhere", "/nowhere", "a/b/c", "nowhere.csv"])
def test_path_that_does_not_exist_is_named(path):
    with pytest.raises(ValueError, match="there is no such file or folder; check the path"):
        load_data(path)


@pytest.mark.parametrize("name", ["a b", "two words", "", "owner/name!", "owner/name?"])
def test_name_that_is_no_hub_id_raises(name):
    with pytest.raises(ValueError, match="is neither a path nor a Hub id"):
        load_data(name)


@pytest.mark.parametrize(
    ("files", "name", "message"),
    [
        *((files, "", "holds none of the known forms: tar shards") for files in ("notes.json", "a.svg", "x/y.md")),
        ("0.tar", "0.tar", "is a file of an unknown kind; give its folder"),
    ],
)
def test_files_of_no_known_form_raise(write_files, files, name, message):
    with pytest.raises(ValueError, match=message):
        load_data(write_files({files: "{}"}) / name)


def test_local_folder_of_a_built_in_name_needs_a_dot(tmp_path, monkeypatch, write_files):
    files = {"test.csv": "image,caption\n1.png,a\n2.png,b\n", "1.png": None, "2.png": None}
    write_files(files).rename(tmp_path / "digits")
    monkeypatch.chdir(tmp_path)
    assert len(load_data("digits", splits=["test"])["test"]) == 360
    assert len(load_data("./digits", splits=["test"], cache_dir="cache")["test"]) == 2


# Splits, kinds and templates


def labelled(labels, split="train", names=("a", "b")):
    keys = [f"{split}-{row}" for row in range(len(labels))]
    return build_dataset(image_bytes([b"x"] * len(labels)), keys, labels=labels, class_names=names)


def captioned(count):
    keys = [f"k{row}" for row in range(count)]
    return build_dataset(image_bytes([b"x"] * count), keys, captions=[[f"text {key}"] for key in keys])


def table(labels):
    return datasets.Dataset.from_dict(
        {"image": [f"{label}{row}".encode() for row, label in enumerate(labels)], "label": labels}
    )


def load(parts, *, options=DEFAULT_OPTIONS, **arguments):
    """Splits of a source made of {split: rows or a function that gives them}."""
    source = {
        split: Split(rows if callable(rows) else partial(lambda it: it, rows), f"{split}.csv")
        for split, rows in parts.items()
    }
    return load_splits(source, "toy", options, **arguments)


@pytest.mark.parametrize("splits", [None, ["train", "val"], ["validation", "train"], ["train"], ["dev"]])
def test_validation_is_taken_from_train_and_train_is_the_rest(splits):
    parts = load({"train": labelled([0, 1] * 50)}, splits=splits)
    names = [{"val": "validation", "dev": "validation"}.get(name, name) for name in splits or ["train", "validation"]]
    assert list(parts) == names
    sizes, whole = {"train": 90, "validation": 10}, load({"train": labelled([0, 1] * 50)})
    assert {split: len(part) for split, part in parts.items()} == {split: sizes[split] for split in names}
    for split, part in parts.items():
        assert part.split == split and part["key"][:] == whole[split]["key"][:]
        assert (part.info.dataset_name, part.info.description, parts.origin[split]) == ("toy", "train.csv", "train.csv")
    assert not {*whole["train"]["key"]} & {*whole["validation"]["key"]}
    assert sorted(whole["validation"]["label"]) == [0] * 5 + [1] * 5


@pytest.mark.parametrize("parts", [{"validation": labelled([1, 1], "validation")}, {"test": labelled([0, 1], "test")}])
def test_train_is_whole_beside_its_own_validation_or_with_fraction_zero(parts):
    data = load({"train": labelled([0, 1]), **parts}, validation_fraction=0 if "test" in parts else 0.1)
    assert list(data) == ["train", *parts] and len(data["train"]) == 2
    assert data[[*parts][0]]["key"][:] == [f"{[*parts][0]}-{row}" for row in range(2)]


def test_only_what_is_asked_for_is_opened_and_each_table_once():
    opened = []
    source = {
        split: lambda split=split: opened.append(split) or table(["b", "a"] * 5) for split in ("train", "test", "rest")
    }
    load(source, splits=["test"], options=DataOptions(label_column="label", class_names=["a", "b"]))
    assert opened == ["test"]
    load(source, splits=["test", "train", "rest"])
    assert sorted(opened[1:]) == ["rest", "test", "train"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"text": ["a"], "caption": ["b"]}, "toy, split test: columns text, caption could all be the captions"),
        ({"label": [0]}, "toy: train has captions and test has labels"),
    ],
)
def test_columns_of_all_splits_are_checked_before_images_are_compared(monkeypatch, columns, message):
    monkeypatch.setattr(dataset, "_digests", lambda images: pytest.fail("the images of train were read"))
    train, test = ({"image": [b"x"], **texts} for texts in ({"caption": ["a"]}, columns))
    with pytest.raises(ValueError, match=message):
        load({"train": datasets.Dataset.from_dict(train), "test": datasets.Dataset.from_dict(test)})


def test_classes_written_as_words_are_numbered_by_train_in_every_split():
    data = load({"test": table(["dog", "ant"]), "train": table(["cat", "dog"] * 5)}, splits=["test"])
    assert data["test"].features["label"].names == ["cat", "dog", "ant"] and data["test"]["label"][:] == [1, 2]


TRAIN = {"train": labelled([0, 1])}
NAMED = {"caption_column": "a", "label_column": "b"}


@pytest.mark.parametrize(
    ("parts", "arguments", "message"),
    [
        (TRAIN, {"splits": ["test"]}, r"toy has no split 'test'; it has: train, validation\. Choose or add one"),
        ({"test": labelled([0])}, {"splits": ["val"]}, "toy has no split 'validation'; it has: test. Choose or"),
        (TRAIN, {"splits": ["validation"], "validation_fraction": 0}, "has no split .* validation_fraction above 0"),
        (TRAIN, {"splits": ["validation"], "streaming": True}, "has no split .* stream.* --eval_strategy no"),
        *(({}, {"validation_fraction": it}, r"validation_fraction=.* is not in \[0, 1\)") for it in (-0.1, 1.0, 10)),
        ({"train": labelled([0])}, {}, "toy: 1 rows are too few to take 0.1 of them for validation"),
        ({"train": captioned(2), "test": labelled([0])}, {}, "toy: train has captions and test has labels.*; name one"),
        ({"train": captioned(9)}, {"options": DataOptions(class_names=["a"])}, "of its own, so class_names has no use"),
        ({"train": captioned(9)}, {"options": DataOptions(templates=["{}"])}, "of its own, so templates has no use"),
        (TRAIN, {"streaming": True}, "toy: train.csv is not streamed"),
        ({"test": labelled([-1, -1])}, {}, "toy, split test: .* has label -1; .*-1 stands for a hidden label"),
        ({"test": captioned(2).select([])}, {}, "toy, split test: no rows; choose another split"),
        ("digits", {"templates": ["a photo of {}", "a photo"]}, "template 'a photo' has no {} for the class"),
        ("digits", {"image_column": "image"}, "image_column='image': digits is not a table and has no columns"),
        ("digits", NAMED, "are both named; name captions for caption data"),
        ("digits", {"splits": ["dev", "restval"]}, "digits has no split 'restval'; it has: train, validation, test"),
        ("scenes", {"templates": ["a {}"], "splits": ["validation"]}, "scenes has captions of its own, so templates"),
    ],
)  # fmt: skip
def test_what_cannot_be_loaded_raises_one_sentence(parts, arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        load_data(parts, **arguments) if isinstance(parts, str) else load(parts, **arguments)
    assert "\n" not in str(error.value)
    assert isinstance(error.value, NoSuchSplitError) == ("has no split" in message)


@pytest.mark.parametrize(
    ("own", "option", "expected"),
    [
        (None, None, ["a photo of a {}."]),
        (["our {}"], None, ["our {}"]),
        (["our {}"], ["my {}"], ["my {}"]),
        (["our {}"], "a {}", ["a {}"]),
    ],
)
def test_templates_are_the_user_s_or_the_data_s_or_the_default(own, option, expected):
    source = {"test": Split(lambda: labelled([0, 1]), "here", templates=own)}
    assert load_splits(source, "toy", DataOptions(templates=option)).templates == expected


def test_description_is_a_line_a_split():
    names = [f"class\n{number}" for number in range(12)]
    data = load({"train": labelled([0, 1] * 600, names=names), "test": labelled([0], names=names)})
    shown = ", ".join(f"class {number}" for number in range(10))
    kinds = [f"{rows} rows, 12 classes: {shown}, ..." for rows in ("1,080", "1", "120")]
    lines = [line.replace("\\n", " ") for line in describe_data(data)]
    origins = [f"(from {name}.csv)" for name in ("train", "test", "train")]
    assert lines == [f"{split}: {kind} {origin}" for split, kind, origin in zip(data, kinds, origins, strict=True)]
    assert describe_data(load({"test": captioned(2)})) == ["test: 2 rows, captions, such as 'text k0' (from test.csv)"]
    stream = {"train": labelled([0, 1], names=["a", "b"]).to_iterable_dataset()}
    assert describe_data(stream) == ["train: streamed, 2 classes: a, b (from the dataset)"]
