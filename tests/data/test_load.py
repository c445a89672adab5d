"""Names, paths and options go in; which source answers, and in which words it declines, is checked."""

import pytest

from modeling_clipscratch.data import load_data


@pytest.mark.parametrize("path", ["./nowhere", "../nowhere/set", "~/nowhere", "/nowhere", "a/b/c", "nowhere.csv"])
def test_path_that_does_not_exist_is_said_to_be_missing(path):
    with pytest.raises(ValueError, match="there is no such file or folder; check the path"):
        load_data(path)


@pytest.mark.parametrize("name", ["a b", "", "owner/name!"])
def test_name_that_is_no_hub_id_is_refused(name):
    with pytest.raises(ValueError, match="is neither a path nor a Hub id"):
        load_data(name)


@pytest.mark.parametrize("files", [{"notes.json": "{}"}, {"a.svg": ""}, {}, {"notes.txt": "a", "x/y.md": ""}])
def test_folder_without_a_known_form_lists_the_forms(tmp_path, files):
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match="holds none of the known forms: tar shards"):
        load_data(tmp_path)


@pytest.mark.parametrize(
    ("name", "remedy"), [("a.zip", "give a folder"), ("0.tar", "give the folder that holds the shards")]
)
def test_file_of_no_known_kind_is_refused(tmp_path, name, remedy):
    (tmp_path / name).write_text("")
    with pytest.raises(ValueError, match=f"is a file of no known kind; {remedy}"):
        load_data(tmp_path / name)


@pytest.fixture
def write_rows(tmp_path, encode):
    """Writes tables of as many rows as asked for, each with a caption, in a folder `digits`."""

    def write(**counts):
        folder = tmp_path / "digits"
        folder.mkdir()
        for split, count in counts.items():
            for row in range(count):
                (folder / f"{split}{row}.png").write_bytes(encode())
            lines = [f"{split}{row}.png,a caption" for row in range(count)]
            (folder / f"{split}.csv").write_text("\n".join(["image,caption", *lines, ""]))
        return folder

    return write


@pytest.mark.parametrize(
    ("counts", "options", "sentence"),
    [
        ({"test": 2}, {"splits": ["validation"]}, "has no split 'validation'; it has: test"),
        ({"train": 2}, {"splits": ["test"]}, "has no split 'test'; it has: train, validation .taken from train"),
        ({"train": 2, "test": 0}, {}, "split test: no rows; choose another split"),
        ({"train": 0}, {}, "split train: no rows"),
        ({"train": 1}, {}, "1 rows are too few to take 0.1 of them for validation"),
        ({"train": 2}, {"templates": ["a {}"]}, "has captions of its own, so templates has no use"),
        ({"train": 2}, {"streaming": True}, "is of a form that is not streamed"),
    ],
)
def test_splits_that_are_not_there_empty_or_too_small_are_named(write_rows, tmp_path, counts, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        load_data(write_rows(**counts), cache_dir=str(tmp_path / "cache"), **options)


def test_local_folder_of_a_built_in_name_needs_a_dot(write_rows, monkeypatch):
    monkeypatch.chdir(write_rows(test=4).parent)
    assert len(load_data("digits", splits=["test"])["test"]) == 360
    assert len(load_data("./digits", splits=["test"])["test"]) == 4


def test_template_without_a_place_for_the_class_is_refused():
    with pytest.raises(ValueError, match="template 'a photo' has no {}, where the class would go"):
        load_data("digits", templates=["a photo of {}", "a photo"])


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("scenes", {"templates": ["a {}"]}, "scenes has captions of its own, so templates has no use"),
        ("digits", {"image_column": "image"}, "image_column='image': digits is no table and has no columns"),
    ],
)
def test_options_without_a_use_are_refused(name, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        load_data(name, splits=["test"], **options)


def test_seed_chooses_the_validation_rows(write_rows, tmp_path):
    folder, options = write_rows(train=20), {"validation_fraction": 0.25, "cache_dir": str(tmp_path / "cache")}
    chosen = [load_data(folder, seed=seed, **options)["validation"]["key"][:] for seed in (0, 0, 1)]
    assert len(chosen[0]) == 5
    assert chosen[0] == chosen[1] != chosen[2]


def test_prompts_may_be_the_name_of_a_list():
    one, other = (load_data("digits", splits=["test"], templates=name).templates for name in ("cifar10", ["cifar10"]))
    assert one == other and len(one) == 18
