"""Check that each name is documented, each public one with an example, and that the pages are built.

What is public stands in `__all__` of the package and of each room.
"""

import ast
import doctest
import importlib
import importlib.util
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "modeling_clipscratch"
PLACES = ["modeling_clipscratch"]
PLACES += [f"modeling_clipscratch.{room}" for room in ("data", "training", "evaluation", "search", "sharing")]
PUBLIC = [(place, name) for place in PLACES for name in importlib.import_module(place).__all__]


def test_every_room_says_what_is_public():
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")} - {
        "hub",
        "demo",
    }  # the package's own, and a page
    assert {place.split(".")[1] for place in PLACES[1:]} == rooms
    assert len(PUBLIC) == len(set(PUBLIC)) > 50


@pytest.mark.parametrize("place, name", PUBLIC, ids=lambda part: part.split(".")[-1])
def test_public_name_has_an_example(place, name):
    found = getattr(importlib.import_module(place), name)
    assert found.__name__ == name and found.__module__.startswith(place)
    assert doctest.DocTestParser().get_examples(inspect.getdoc(found)), f"{name}: no >>> in its docstring"


def undocumented(source):
    nodes = (node for node in ast.parse(source).body if isinstance(node, (ast.FunctionDef, ast.ClassDef)))
    return [node.name for node in nodes if not node.name.startswith("_") and not ast.get_docstring(node)]


def test_every_name_without_an_underscore_has_a_docstring():
    assert undocumented("def f(): pass\ndef _g(): pass\nclass C:\n    '''It.'''\nclass D: pass") == ["f", "D"]
    bare = {str(path): undocumented(path.read_text()) for path in PACKAGE.rglob("*.py")}
    assert {path: names for path, names in bare.items() if names} == {}


# Rooms


def alone(program):
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.split()


def test_importing_the_rooms_brings_nothing_slow():
    program = f"""
import sys
from transformers import Trainer  # 5.9 brings sklearn and datasets itself
before = set(sys.modules)
import {", ".join(PLACES)}
print(*{{'matplotlib', 'sklearn', 'faiss'}} & (set(sys.modules) - before))"""
    assert alone(program) == []


def test_a_name_that_is_its_file_s_too_is_the_function_whichever_is_imported_first():
    program = """
import modeling_clipscratch.evaluation.evaluate_dataset
from modeling_clipscratch.evaluation import evaluate_dataset, rank_labels
import modeling_clipscratch.evaluation.rank_labels
import modeling_clipscratch.evaluation as room
from modeling_clipscratch.evaluation.evaluate_dataset import evaluate_dataset as own
print(room.evaluate_dataset is evaluate_dataset is own, room.rank_labels is rank_labels, callable(rank_labels))"""
    assert alone(program) == ["True", "True", "True"]


def test_a_room_knows_what_it_shows_and_no_more():
    room = importlib.import_module("modeling_clipscratch.evaluation")
    assert set(room.__all__) < set(dir(room))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        room.nothing  # noqa: B018
    from modeling_clipscratch.evaluation.report import html_report as page  # a file that shows nothing is a file

    assert inspect.ismodule(page)


# The page


@pytest.fixture(scope="module")
def builder():
    pytest.importorskip("pdoc", reason="the page is built with pdoc, of the extra docs")
    spec = importlib.util.spec_from_file_location("build_docs", ROOT / "docs" / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_page_is_built_without_a_warning_and_holds_every_public_name(builder, tmp_path):
    assert {path.name for path in builder.build(tmp_path)} >= {"index.html", "search.js", "data.html", "training.html"}
    for place, name in PUBLIC:
        page = (tmp_path / (place.replace(".", "/") + ".html")).read_text()
        assert f'id="{name}"' in page, f"{place}.{name}"
    page = (tmp_path / "modeling_clipscratch" / "data.html").read_text()
    assert re.search(r'<h6 id="raises[^>]*>Raises:</h6>\s*<ul>\s*<li><strong>ValueError:</strong>', page)
    assert (
        "Least share of the image that a random crop"
        in (tmp_path / "modeling_clipscratch" / "training.html").read_text()
    )
    assert "Weights from XXX" not in (tmp_path / "modeling_clipscratch.html").read_text()  # transformers' own words
    assert "&gt;&gt;&gt; " in page and "Returns: " not in page and "<p>&gt;" not in page


def test_a_warning_is_an_error(builder, tmp_path, monkeypatch):
    room = importlib.import_module("modeling_clipscratch.search")
    monkeypatch.setattr(room.search, "__annotations__", {"index": "NoSuchType"})
    with pytest.raises(UserWarning, match="NoSuchType"):
        builder.build(tmp_path)


def test_sections_on_one_line_are_moved_below(builder):
    assert doctest.testmod(builder).attempted > 0 and doctest.testmod(builder).failed == 0
    as_it_is = "Sum.\n\nArgs:\n    a: one.\n    b: two.\n\n>>> 1\n1"
    assert builder.with_sections_below(as_it_is) == as_it_is
