"""Names, paths and options go in; which source answers, and in which words it declines, is checked."""

import pytest

from modeling_clipscratch.data import load_rows


@pytest.mark.parametrize("path", ["./nowhere", "../nowhere/set", "~/nowhere", "/nowhere", "a/b/c", "nowhere.csv"])
def test_path_that_does_not_exist_is_said_to_be_missing(path):
    with pytest.raises(ValueError, match="there is no such file or folder; check the path"):
        load_rows(path, "train")


@pytest.mark.parametrize("name", ["a b", "", "owner/name!"])
def test_name_that_is_no_hub_id_is_refused(name):
    with pytest.raises(ValueError, match="is neither a path nor a Hub id"):
        load_rows(name, "train")


def test_folder_without_a_known_form_lists_the_forms(tmp_path):
    (tmp_path / "notes.json").write_text("{}")
    with pytest.raises(ValueError, match="holds none of the known forms: tar shards"):
        load_rows(str(tmp_path), "train")


def test_file_of_no_known_kind_is_refused(tmp_path):
    (tmp_path / "a.zip").write_text("")
    with pytest.raises(ValueError, match="is a file of no known kind"):
        load_rows(str(tmp_path / "a.zip"), "train")


def test_missing_split_lists_those_there_are(tmp_path, write_class_set):
    with pytest.raises(ValueError, match="has no split 'validation'; it has: test"):
        load_rows(str(write_class_set(tmp_path, splits=["test"])), "validation")


def test_local_folder_of_a_built_in_name_needs_a_dot(tmp_path, write_class_set, monkeypatch):
    write_class_set(tmp_path / "digits")
    monkeypatch.chdir(tmp_path)
    assert len(load_rows("digits", "test")) == 360
    assert len(load_rows("./digits", "test")) == 4


def test_template_without_a_place_for_the_class_is_refused():
    with pytest.raises(ValueError, match="template 'a photo' has no {}, where the class would go"):
        load_rows("digits", "test", templates=["a photo of {}", "a photo"])


def test_options_without_a_use_are_refused(tmp_path, write_class_set):
    with pytest.raises(ValueError, match="scenes has captions of its own, so templates has no use"):
        load_rows("scenes", "test", templates=["a {}"])
    with pytest.raises(ValueError, match="image_column='image': .* is no table and has no columns"):
        load_rows(str(write_class_set(tmp_path)), "test", image_column="image")


def test_seed_chooses_the_validation_rows(tmp_path, encode):
    for index in range(20):
        path = tmp_path / "red" / f"{index}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encode())
    chosen = [load_rows(str(tmp_path), "validation", validation_fraction=0.25, seed=seed).keys for seed in (0, 0, 1)]
    assert len(chosen[0]) == 5
    assert chosen[0] == chosen[1] != chosen[2]


def test_prompts_may_be_the_name_of_a_list():
    one, other = (load_rows("digits", "test", templates=said).templates for said in ("cifar10", ["cifar10"]))
    assert one == other and len(one) == 18
