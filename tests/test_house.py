"""Check imports between the parts of the package, public names, what travels with a model and may run foreign code."""

import ast
import doctest
import inspect
import re
from pathlib import Path

import pytest

import modeling_clipscratch

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "modeling_clipscratch"
MAY_USE = {  # part of the package -> parts that it may import
    "hub": set(),
    "utils": {"hub"},  # the class of errors, which travels with saved models; nothing else
    "data": {"utils"},
    "evaluation": {"utils", "hub", "data"},
    "search": {"utils", "hub", "data", "evaluation"},
    "training": {"utils", "hub", "data", "evaluation"},
    "sharing": {"utils", "hub", "data", "evaluation", "search", "training"},
    "cli": {"utils", "hub", "data", "evaluation", "search", "training", "sharing"},
}


def modules():
    return sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")


def parts_used(path, source):
    """Yield the parts of the package that a file imports, at any depth of its code."""
    here = path.relative_to(ROOT).parts[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            targets = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = list(here[: len(here) - node.level + 1]) if node.level else []
            base += node.module.split(".") if node.module else []
            targets = [base + [alias.name] for alias in node.names]
        else:
            continue
        for target in targets:
            if target[0] == PACKAGE.name and len(target) > 1 and target[1] in MAY_USE:
                yield target[1]


def test_imports_go_one_way():
    for path in modules():
        part = path.relative_to(PACKAGE).parts[0]
        used = set(parts_used(path, path.read_text()))
        assert part not in MAY_USE or used - {part} <= MAY_USE[part], path


def test_parts_used_sees_every_form_of_import():
    """Else the test above could not fail."""
    source = "from ..training import run\nimport modeling_clipscratch.hub\nfrom . import rows"
    assert sorted(parts_used(PACKAGE / "data" / "nowhere.py", source)) == ["data", "hub", "training"]


def test_what_travels_imports_torch_transformers_and_its_siblings_only():
    for path in (PACKAGE / "hub").glob("*_clipscratch.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert node.level == 1 and node.module.endswith("_clipscratch"), f"{path.name}: {ast.unparse(node)}"
            elif isinstance(node, (ast.Import, ast.ImportFrom)):
                names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
                standard = {"contextlib", "dataclasses", "inspect", "logging", "math", "os", "random"}
                assert {name.split(".")[0] for name in names} <= standard | {"torch", "transformers"}, path.name


def unsafe_calls(source):
    """Yield calls that may run code from a file: unpickling, unsafe YAML, Auto classes with remote code."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            base = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            names = {base + alias.name for alias in node.names} - {"pickle.UnpicklingError"}
            unsafe = {"pickle", "dill", "joblib", "marshal", "shelve"}
            yield from (name for name in names if name.split(".")[0] in unsafe)
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        given = {word.arg: ast.unparse(word.value) for word in node.keywords}
        auto = re.fullmatch(r"Auto\w+\.from_pretrained", name) and given.get("trust_remote_code") != "False"
        load = name == "torch.load" and given.get("weights_only") != "True"
        other = name in {"eval", "exec", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "pandas.read_pickle"}
        other &= not (name == "yaml.load" and ast.unparse(node.args[1]) == "yaml.BaseLoader")  # text, lists and dicts
        if auto or load or other or given.get("allow_pickle") == "True":
            yield ast.unparse(node)


def test_no_call_may_run_code_from_a_file():
    for path in [*modules(), *ROOT.glob("run_*.py")]:
        assert not list(unsafe_calls(path.read_text())), path


@pytest.mark.parametrize(
    "line",
    [
        "import pickle", "from joblib import load", "torch.load(path)", "torch.load(path, weights_only=False)",
        "yaml.load(text, yaml.Loader)", "np.load(path, allow_pickle=True)", "AutoModel.from_pretrained(folder)",
        "AutoTokenizer.from_pretrained(folder, trust_remote_code=trust)", "exec(text)",
    ],
)  # fmt: skip
def test_unsafe_calls_are_seen(line):
    """Else the test above could not fail."""
    assert list(unsafe_calls(line))


def test_the_oldest_transformers_is_named_alike_everywhere():
    version = re.compile(r"transformers(?:>=|==)([\d.]+)")
    install = version.search((ROOT / "setup.cfg").read_text())[1]
    travels = version.search((PACKAGE / "hub" / "configuration_clipscratch.py").read_text())[1]
    tested = version.search((ROOT / "constraints-oldest.txt").read_text())[1]
    assert install == travels and tested == f"{install}.0"


def test_the_scripts_have_no_logic_of_their_own():
    scripts = sorted(ROOT.glob("run_*.py"))
    assert [path.name for path in scripts] == ["run_eval.py", "run_inference.py", "run_train.py"]
    assert all(len(ast.parse(path.read_text()).body) <= 3 for path in scripts)


def test_file_names_are_unique_and_folders_small():
    names = [path.name for path in modules() if "metric_modules" not in path.parts]
    assert sorted(names) == sorted(set(names))
    folders = [path.parent for path in modules()]
    assert max(map(folders.count, folders)) <= 12


@pytest.mark.parametrize("name", modeling_clipscratch.__all__)
def test_public_name_has_an_example(name):
    shown = getattr(modeling_clipscratch, name)
    assert shown.__name__ == name and name in dir(modeling_clipscratch)
    assert doctest.DocTestParser().get_examples(inspect.getdoc(shown)), f"{name}: no >>> in its docstring"
