"""Read prompt templates from the words of a command line."""

import re

import pytest

from modeling_clipscratch.data.load import load_data
from modeling_clipscratch.data.templates import TEMPLATES, class_names_from, templates_from


@pytest.fixture
def text_file(tmp_path):
    def write(content, name="words.txt"):
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(tmp_path / name)

    return write


def test_the_published_lists_have_their_counts_and_no_prompt_twice():
    assert {name: len(set(listed)) for name, listed in TEMPLATES.items()} == {
        "cifar10": 18,
        "cifar100": 18,
        "imagenet": 80,
    }
    assert all(len(set(listed)) == len(listed) for listed in TEMPLATES.values())
    for prompt in (prompt for listed in TEMPLATES.values() for prompt in listed):
        assert re.fullmatch(r"[a-z -]*\{\}[a-z ]*\.", prompt), prompt


def test_cifar10_s_list_is_that_of_clip_benchmark_s_web_data_set(shared_folder):
    folder = shared_folder / "wds_vtab-cifar10"
    assert templates_from([str(folder / "zeroshot_classification_templates.txt")]) == templates_from(["cifar10"])
    assert class_names_from([str(folder / "classnames.txt")])[:2] == ["airplane", "automobile"]


def test_prompts_are_taken_as_they_are():
    assert templates_from(["{}", "a {}, a kind of {}."]) == ["{}", "a {}, a kind of {}."]
    assert class_names_from(["cat", "a dog"]) == ["cat", "a dog"]


def test_a_text_file_has_an_entry_a_line(text_file):
    file = text_file("\ufeffa {}\r\n  the {c}.  \n\n\n")  # as Windows' editor saves it; {c} is clip-benchmark's
    assert templates_from([file]) == ["a {}", "the {}."]
    assert class_names_from([text_file("tom cat\ndog\n")]) == ["tom cat", "dog"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["cifar01"], "templates 'cifar01' is no published list, .* did you mean cifar10?"),
        (["flowers"], "templates 'flowers' is no published list, .* there are cifar10, cifar100, imagenet."),
        (["cifar10", "imagenet"], "template 'cifar10' has no {}"),
        (["a photo of it"], "template 'a photo of it' has no {}"),
        (["nowhere.txt"], "nowhere.txt: there is no such file"),
    ],
)
def test_templates_that_are_none_are_refused(words, sentence):
    with pytest.raises(ValueError, match=sentence):
        templates_from(words)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "is empty; write one entry a line"),
        (" \n\n", "is empty; write one entry a line"),
        ("cat\n\ndog\n", "label 2 of 3 is empty"),
        ("cat\ndog\ncat\n", "label 'cat' is given twice"),
        (b"caf\xe9\n", "is not text in UTF-8"),
    ],
)
def test_a_file_of_labels_that_cannot_be_is_refused(text_file, content, sentence):
    with pytest.raises(ValueError, match=sentence) as error:
        class_names_from([text_file(content)])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("names", "sentence"), [(["a", "b", "a"], "'a' is given twice"), (["a", " "], "2 of 2 is empty")]
)
def test_names_that_cannot_be_told_apart_are_refused(names, sentence):
    with pytest.raises(ValueError, match=sentence):
        load_data("digits", class_names=names)
