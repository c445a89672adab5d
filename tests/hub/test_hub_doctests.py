"""The examples in the docstrings of `hub/` go in; each does what it shows."""

import doctest
import importlib
from pathlib import Path

import pytest

from modeling_clipscratch import hub

FILES = sorted(path.stem for path in Path(hub.__file__).parent.glob("*_clipscratch.py"))


@pytest.mark.parametrize("name", FILES)
def test_docstring_examples_hold(name, place_of_doctests, monkeypatch):
    monkeypatch.chdir(place_of_doctests)
    module = importlib.import_module(f"modeling_clipscratch.hub.{name}")
    written = sum(len(test.examples) for test in doctest.DocTestFinder().find(module))
    result = doctest.testmod(module)
    assert result.failed == 0 and result.attempted == written


def test_losses_and_config_show_examples():
    for name in ("configuration_clipscratch", "losses_clipscratch"):
        module = importlib.import_module(f"modeling_clipscratch.hub.{name}")
        assert any(test.examples for test in doctest.DocTestFinder().find(module)), name
