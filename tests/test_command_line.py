"""The commands go in; what their help brings along, and so makes the user wait for, is checked."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors import SafetensorError

from modeling_clipscratch.cli.command_line import TERMINATED, run_command
from modeling_clipscratch.hub.errors_clipscratch import ClipScratchError

ROOT = Path(__file__).parent.parent
# Each takes a tenth of a second or more, and none is needed before a picture is drawn, searched or measured.
LATER = {"matplotlib", "sklearn", "scipy.stats", "evaluate", "faiss", "gradio", "onnx", "onnxruntime"}
HELP = """
import contextlib, io, json, sys
import run_train
said = io.StringIO()
with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
    run_train.main(["--help"])
print(json.dumps(["--learning_rate" in said.getvalue(), "transformers.trainer" in sys.modules, list(sys.modules)]))
"""
TRAINER = "import json, sys\nfrom transformers import Trainer\nprint(json.dumps(list(sys.modules)))"


def told_by(program):
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def test_help_of_training_imports_nothing_that_only_a_finished_run_needs():
    helps, has_trainer, imported = told_by(HELP)
    brought = set(told_by(TRAINER))  # 5.9's own needs sklearn
    assert helps and has_trainer and not LATER & (set(imported) - brought)


def test_a_reader_that_has_enough_is_no_error():
    script = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
    script += "from modeling_clipscratch.cli.command_line import run_command\n"
    script += "run_command(lambda arguments: print('line\\n' * 100_000))"
    done = subprocess.run(f"{sys.executable} -c {shlex.quote(script)} | head -1", shell=True, capture_output=True)
    assert (done.stdout, done.stderr) == (b"line\n", b"")


def test_full_disk_is_one_sentence_whichever_library_met_it(capsys):
    def fill(arguments):
        raise SafetensorError("I/O error: No space left on device")

    with pytest.raises(SystemExit) as exit:
        run_command(fill)
    assert exit.value.code == 2
    assert capsys.readouterr().err == "error: I/O error: No space left on device\n"


@pytest.mark.parametrize(
    ("words", "left"),
    [
        (["--debug", "push", "runs/a"], ["push", "runs/a"]),
        (["recipe.yaml", "--debug"], ["recipe.yaml"]),
        (["--debug", "underflow_overflow", "--max_steps", "5"], ["--debug", "underflow_overflow", "--max_steps", "5"]),
    ],
)
def test_debug_is_ours_unless_the_trainer_s_word_follows(monkeypatch, words, left):
    seen = []
    monkeypatch.setattr(sys, "argv", ["run_train.py", *words])
    run_command(seen.extend)
    assert seen == left


def test_names_in_messages_move_no_cursor():
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from modeling_clipscratch.cli import command_line\n"
    program += "from modeling_clipscratch.hub.errors_clipscratch import ClipScratchError\n"
    program += "import logging\n"
    program += "def main(arguments):\n"
    program += "    logging.getLogger('modeling_clipscratch').warning('left out: %s', '\\x1b[2Ja.png')\n"
    program += "    raise ClipScratchError('\\x1b]0;b.png')\ncommand_line.run_command(main)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stderr == "left out: \ufffd[2Ja.png\nerror: \ufffd]0;b.png\n"


INTERRUPTED = """
import os, runpy, signal, sys
class Finder:
    def find_spec(name, path, target=None):
        if name == "modeling_clipscratch":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder)
sys.argv, script = [sys.argv[1]], sys.argv[2]
runpy.run_path(script, run_name=sys.argv[0])
"""


@pytest.mark.parametrize("script", sorted(path.name for path in ROOT.glob("run_*.py")))
@pytest.mark.parametrize("name", ["run_{}.py", "/bin/clipscratch-{}"])
def test_interrupt_while_the_libraries_are_imported_brings_no_traceback(script, name):
    name = name.format(script.removeprefix("run_").removesuffix(".py"))
    done = subprocess.run([sys.executable, "-c", INTERRUPTED, name, script], cwd=ROOT, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"stopped.\n")


def run_in_fork(main, *, launcher_ends=False):
    """Exit status and stderr of `run_command(main)` in a process of its own."""
    readable, writable = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if launcher_ends:
                os.environ["TORCHELASTIC_RUN_ID"] = "none"
                began, begins = os.pipe()
                if os.fork():
                    os.read(began, 1)
                    os._exit(0)
            os.close(readable)
            sys.argv, sys.stderr = ["run_train.py"], os.fdopen(writable, "w")
            run_command((lambda arguments: (os.write(begins, b" "), main(arguments))) if launcher_ends else main)
        finally:
            os._exit(99)
    os.close(writable)
    with os.fdopen(readable) as stderr:
        text = stderr.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), text


def signals(number):
    os.kill(os.getpid(), number)
    time.sleep(60)


class _Signals:
    def __del__(self):
        signals(signal.SIGINT)


def loses_the_signal(arguments):
    _Signals()
    time.sleep(60)


def fails_at_the_signal(arguments):
    try:
        signals(signal.SIGTERM)
    finally:
        raise RuntimeError("a worker is gone")


def adds_a_note(arguments):
    try:
        signals(signal.SIGINT)
    except KeyboardInterrupt as error:
        error.add_note("To resume it, run it again.")
        raise


def ends_as_after_sigterm(arguments):
    raise SystemExit(TERMINATED)


@pytest.mark.parametrize(
    ("main", "status", "sentence"),
    [
        (lambda arguments: signals(signal.SIGINT), 130, "stopped.\n"),
        (lambda arguments: signals(signal.SIGTERM), 143, "stopped by SIGTERM.\n"),
        (loses_the_signal, 130, "stopped.\n"),
        (fails_at_the_signal, 143, "stopped by SIGTERM.\n"),
        (adds_a_note, 130, "stopped. To resume it, run it again.\n"),
        (ends_as_after_sigterm, 143, "stopped by SIGTERM.\n"),
    ],
)
def test_signal_ends_a_command_with_one_sentence(main, status, sentence):
    assert run_in_fork(main) == (status, sentence)


def test_command_leaves_the_signals_as_they_were(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["run_train.py"])
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM), sys.unraisablehook
    run_command(lambda arguments: None)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM), sys.unraisablehook) == before


def raises(error):
    def main(arguments):
        raise error

    return main


def test_processes_of_a_launcher_say_once_why_they_end(tmp_path, monkeypatch):
    ends = []
    errors = [*map(ClipScratchError, ["wrong", "wrong", "wrong, too"]), RuntimeError("peer is gone")]
    for process, error in enumerate(errors):
        (tmp_path / "attempt_0" / str(process)).mkdir(parents=True)
        monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "attempt_0" / str(process) / "error.json"))
        ends.append(run_in_fork(raises(error))[1])
    assert ends == ["error: wrong\n", "", "", ""]


def test_process_ends_when_its_launcher_is_gone():
    assert run_in_fork(lambda arguments: time.sleep(60), launcher_ends=True)[1] == (
        "stopped, since the launcher is gone.\n"
    )
