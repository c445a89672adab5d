"""Check how the command is found, before and after the libraries are imported."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from modeling_clipscratch.cli import classify, command_line
from modeling_clipscratch.cli.main import COMMANDS, main

ROOT = Path(__file__).parents[2]


@pytest.fixture
def call(monkeypatch):
    """Run `main` with words of a command line; the command itself only records its arguments."""

    def run(*words, name=None):
        calls = []
        monkeypatch.setattr(sys, "argv", ["/usr/bin/clipscratch", *words])
        monkeypatch.setattr(command_line, "run_command", lambda command, arguments: calls.append((command, arguments)))
        main(name)
        return calls

    return run


def test_command_is_the_first_word_or_that_of_the_script(call):
    assert call("classify", "--model", "m") == [(classify.main, ["--model", "m"])]
    assert call("--help", name="classify") == [(classify.main, ["--help"])]


@pytest.mark.parametrize("words", [[], ["-h"], ["--help"]])
def test_help_lists_the_commands(call, capsys, words):
    assert call(*words) == []
    listed = capsys.readouterr().out
    assert all(f"  {name} " in listed and (ROOT / f"modeling_clipscratch/cli/{name}.py").is_file() for name in COMMANDS)


def test_unknown_command_is_named(call, capsys):
    with pytest.raises(SystemExit) as ended:
        call("trian")
    assert ended.value.code == 2 and "error: trian is not a command; choose one of train, " in capsys.readouterr().err


def run_program(path, code, *words):
    path.write_text(code)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, path, *words], env=environment, capture_output=True, text=True, check=True)


def test_help_imports_no_library(tmp_path):
    code = "import sys\nfrom modeling_clipscratch.cli.main import main\nmain()\nprint('torch' in sys.modules)"
    assert run_program(tmp_path / "clipscratch", code, "--help").stdout.endswith("\nFalse\n")


@pytest.mark.slow
def test_programs_of_others_have_the_model_registered(tmp_path):
    code = "import modeling_clipscratch, transformers\ntransformers.AutoConfig.for_model('clipscratch')"
    run_program(tmp_path / "run_train.py", code)  # a script of the same name elsewhere


@pytest.mark.slow
def test_wheel_holds_the_recipes_and_nothing_beside_the_package(tmp_path):
    source = tmp_path / "source"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".*", "runs", "tests", "docs", "benchmarks", "shared"))
    build = "from setuptools.build_meta import build_wheel; print(build_wheel('dist'))"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    [wheel] = (source / "dist").glob("*.whl")
    shutil.unpack_archive(wheel, tmp_path / "wheel", "zip")
    names = {path.relative_to(tmp_path / "wheel").as_posix() for path in (tmp_path / "wheel").rglob("*.*")}
    assert {name.split("/")[0].split("-")[0] for name in names} == {"modeling_clipscratch", "clipscratch"}
    recipes = {f"modeling_clipscratch/{path.relative_to(ROOT)}" for path in ROOT.glob("configuration/*.yaml")}
    data = {"evaluation/report/page.html", "sharing/card.md.jinja", "sharing/export/browser/index.html"}
    assert recipes | {f"modeling_clipscratch/{name}" for name in data} <= names and len(recipes) >= 5
