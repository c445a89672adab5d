"""Read prompt templates and class names from the words of a command line, and check them."""

import re

import pytest

from modeling_clipscratch.data.load import load_data
from modeling_clipscratch.data.templates import class_names_from, templates_from


@pytest.fixture
def text_file(tmp_path):
    def write(content, name="words.txt"):
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(tmp_path / name)

    return write


@pytest.mark.parametrize(("name", "count"), [("cifar10", 18), ("cifar100", 18), ("imagenet", 80)])
def test_published_lists_have_their_counts_and_repeat_no_prompt(name, count):
    prompts = templates_from(name)
    assert len(set(prompts)) == len(prompts) == count
    assert all(re.fullmatch(r"[a-z -]*\{\}[a-z ]*\.", prompt) for prompt in prompts)


def test_list_of_cifar10_is_that_of_clip_benchmarks_dataset(shared_folder):
    folder = shared_folder / "wds_vtab-cifar10"
    assert templates_from([str(folder / "zeroshot_classification_templates.txt")]) == templates_from(["cifar10"])
    assert class_names_from([str(folder / "classnames.txt")])[:2] == ["airplane", "automobile"]


def test_prompts_and_names_are_taken_as_they_are_and_a_text_file_has_an_entry_a_line(text_file):
    assert templates_from(["{}", "a {}, a kind of {}."]) == ["{}", "a {}, a kind of {}."]
    assert class_names_from(["cat", "a dog"]) == ["cat", "a dog"]
    file = text_file("\ufeffa {}\r\n  the {c}.  \n\n\n")  # as Windows' editor saves it; {c} is CLIP_benchmark's
    assert templates_from([file]) == ["a {}", "the {}."]
    assert class_names_from([text_file("tom cat\ndog\n")]) == ["tom cat", "dog"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["flowers"], "templates 'flowers' is not a published list .cifar10, cifar100, imagenet.,"),
        (["cifar10", "imagenet"], "template 'cifar10' has no {}"),
        (["a photo of it"], "template 'a photo of it' has no {}"),
        (["nowhere.txt"], "nowhere.txt: there is no such file"),
    ],
)
def test_invalid_templates_raise(values, message):
    with pytest.raises(ValueError, match=message):
        templates_from(values)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty; write one entry a line"),
        (" \n\n", "is empty; write one entry a line"),
        ("cat\n\ndog\n", "label 2 of 3 is empty"),
        ("cat\ndog\ncat\n", "label 'cat' is given twice"),
        (b"caf\xe9\n", "words.txt, line 1: is not UTF-8"),
    ],
)
def test_invalid_class_names_raise(text_file, content, message):
    with pytest.raises(ValueError, match=message) as error:
        load_data("digits", class_names=text_file(content))
    assert "\n" not in str(error.value)
