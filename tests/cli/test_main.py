"""Check how the command is found, before and after the libraries are imported."""

import json
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


PROGRAM = """
import json, os, signal, sys
class Finder:
    def find_spec(name, path, target=None):
        if name == sys.argv[-1]:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder)
sys.argv[0], script = sys.argv.pop(1), sys.argv.pop(1)
import runpy
runpy.run_path(script, run_name="__main__")
print(json.dumps([name for name in ("torch", "transformers") if name in sys.modules]))
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """The program that pip makes of the entry point."""
    path = tmp_path_factory.mktemp("bin") / "clipscratch"
    path.write_text("from modeling_clipscratch.cli.main import main\nmain()\n")
    return path


def run_program(path, *words):
    command = [sys.executable, "-c", PROGRAM, str(path), str(path), *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_help_imports_no_library_and_may_be_cut_off(program):
    assert json.loads(run_program(program, "--help").stdout.splitlines()[-1]) == []
    command = f"PYTHONPATH={ROOT} {sys.executable} {program} --help | true"
    assert subprocess.run(command, shell=True, capture_output=True).stderr == b""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["clipscratch", "run_train.py", "run_eval.py", "run_inference.py"])
def test_interrupt_while_the_libraries_are_imported_prints_no_traceback(program, name):
    done = run_program(program if name == "clipscratch" else ROOT / name, "classify", "torch")
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "stopped.\n")


@pytest.mark.slow
def test_programs_of_others_keep_their_interrupt_and_have_the_model_registered(tmp_path):
    script = tmp_path / "run_train.py"  # a script of the same name elsewhere
    script.write_text(
        "import signal\nbefore = signal.getsignal(signal.SIGINT)\n"
        "import modeling_clipscratch\nfrom transformers import AutoConfig\n"
        "AutoConfig.for_model('clipscratch')\nassert signal.getsignal(signal.SIGINT) == before\n"
    )
    assert run_program(script, "classify").returncode == 0


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
