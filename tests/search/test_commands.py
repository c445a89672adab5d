"""Command lines go in; what `run_inference.py index`, `search` and `classify` print, write and refuse is checked."""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def saved(model, word_processor, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    model.save_pretrained(folder)
    word_processor.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def run(monkeypatch, capsys):
    """Words of a command line -> what it printed."""
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])
    import run_inference

    def call(*words):
        run_inference.main([str(word) for word in words])
        return capsys.readouterr().out

    return call


def test_index_says_what_it_did_and_search_finds_by_text_and_by_picture(run, saved, pictures, tmp_path):
    done = "10 pictures in the index: {} encoded, 0 known by their content, {} unchanged, 0 gone, 0 unreadable\n"
    assert run("index", pictures, "--model", saved) == done.format(10, 0)
    assert run("index", pictures, "--model", saved) == done.format(0, 10)
    words = ["search", "--model", saved, "--index", pictures]
    lines = run(*words, "a red square", "--top", "3").splitlines()
    assert len(lines) == 3 and all(Path(line.split()[-1]).is_file() for line in lines)
    found = json.loads(run(*words, "--image", pictures / "4.png", "--json", "--sheet", tmp_path / "found.html"))
    assert len(found) == 10 and found[0]["image"] == str(pictures / "4.png") and found[0]["score"] > 0.9999
    assert (tmp_path / "found.html").is_file()


def test_an_index_elsewhere_is_found_by_its_own_folder(run, saved, pictures, tmp_path):
    run("index", pictures, "--model", saved, "--index", tmp_path / "index")
    assert len(run("search", "red", "--model", saved, "--index", tmp_path / "index").splitlines()) == 10


def test_classify_is_what_is_done_without_a_command(run, saved, pictures):
    words = ["--model", saved, "--images", pictures / "0.png", "--labels", "red", "blue"]
    assert run("classify", *words) == run(*words)


def test_a_file_of_the_user_s_is_not_taken_for_an_index(run, saved, pictures):
    (pictures / "index.json").write_text("[1]")
    run("index", pictures, "--model", saved)
    assert (pictures / "index.json").read_text() == "[1]"
    assert len(run("search", "red", "--model", saved, "--index", pictures).splitlines()) == 10


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["search"], "neither is given"),
        (["search", "red", "--image", "a.jpg"], "both are given"),
        (["search", ""], "is empty"),
        (["search", "red", "--top", "-1"], "top=-1"),
        (["search", "red", "--sheet", "a.txt"], "sheet=a.txt"),
        (["search", "red"], "holds no finished index"),
    ],
)
def test_search_refuses_in_a_sentence_before_it_loads_the_model(run, pictures, words, sentence):
    with pytest.raises(ValueError, match=sentence):
        run(*words, "--model", "nowhere", "--index", pictures)


def test_a_search_with_another_model_is_refused(run, saved, pictures, make_model, word_processor, tmp_path):
    run("index", pictures, "--model", saved)
    make_model(seed=1).save_pretrained(tmp_path / "other")
    word_processor.save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="made with another model"):
        run("search", "red", "--model", tmp_path / "other", "--index", pictures)


def test_without_faiss_the_remedy_is_named(run, pictures, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ValueError, match=r"pip install 'clipscratch\[search\]'"):
        run("index", pictures, "--model", "nowhere")
