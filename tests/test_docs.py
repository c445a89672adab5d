"""Check that each name is documented, each public one with an example. What is public stands in `__all__`."""

import ast
import doctest
import inspect
from pathlib import Path

import pytest

import modeling_clipscratch

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "modeling_clipscratch"


@pytest.mark.parametrize("name", modeling_clipscratch.__all__)
def test_public_name_has_an_example(name):
    shown = getattr(modeling_clipscratch, name)
    assert shown.__name__ == name and name in dir(modeling_clipscratch)
    assert doctest.DocTestParser().get_examples(inspect.getdoc(shown)), f"{name}: no >>> in its docstring"


def undocumented(source):
    nodes = (node for node in ast.parse(source).body if isinstance(node, (ast.FunctionDef, ast.ClassDef)))
    return [node.name for node in nodes if not node.name.startswith("_") and not ast.get_docstring(node)]


def test_every_name_without_an_underscore_has_a_docstring():
    assert undocumented("def f(): pass\ndef _g(): pass\nclass C:\n    '''It.'''\nclass D: pass") == ["f", "D"]
    modules = set(PACKAGE.rglob("*.py")) - set((PACKAGE / "cli").glob("*.py"))  # a command: its module says it
    bare = {str(path): undocumented(path.read_text()) for path in modules}
    assert {path: names for path, names in bare.items() if names} == {}


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        modeling_clipscratch.nothing  # noqa: B018
