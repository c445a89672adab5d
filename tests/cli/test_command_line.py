"""Check how a program ends, and which libraries its help imports."""

import json
import logging
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
from modeling_clipscratch.utils.errors import ClipScratchError

ROOT = Path(__file__).parents[2]
# Each takes a tenth of a second or more to import, and training starts without them.
LATER = {"matplotlib", "sklearn", "scipy.stats", "evaluate", "faiss", "gradio", "onnx", "onnxruntime"}
HELP = """
import contextlib, io, json, sys
from transformers import Trainer  # that of 5.9 needs sklearn
before = set(sys.modules)
from modeling_clipscratch.cli import train as run_train
said = io.StringIO()
with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
    run_train.main(["--help"])
print(json.dumps(["--learning_rate" in said.getvalue(), [*set(sys.modules) - before]]))
"""


@pytest.mark.slow
def test_help_of_training_imports_nothing_that_only_a_finished_run_needs():
    done = subprocess.run([sys.executable, "-c", HELP], cwd=ROOT, capture_output=True, text=True, check=True)
    helps, imported = json.loads(done.stdout.splitlines()[-1])
    assert helps and not LATER & set(imported)


@pytest.mark.slow
def test_closed_stdout_ends_a_program_silently():
    script = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
    script += "from modeling_clipscratch.cli.command_line import run_command\n"
    script += "run_command(lambda arguments: print('line\\n' * 100_000))"
    done = subprocess.run(f"{sys.executable} -c {shlex.quote(script)} | head -1", shell=True, capture_output=True)
    assert (done.stdout, done.stderr) == (b"line\n", b"")


def raises(error):
    def main(arguments):
        raise error

    return main


@pytest.mark.parametrize("error", [ClipScratchError, OSError, SafetensorError])
def test_error_that_the_user_can_correct_is_one_sentence(error, capsys):
    with pytest.raises(SystemExit) as ended:
        run_command(raises(error("No space left on\n device")), [])
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: No space left on device\n"


@pytest.mark.parametrize("error", [ValueError, RuntimeError, KeyError])
def test_error_of_a_library_is_a_bug_and_keeps_its_traceback(error):
    with pytest.raises(error, match="shape mismatch"):
        run_command(raises(error("shape mismatch")), [])


def test_control_characters_of_file_names_are_not_printed(capsys, monkeypatch):
    monkeypatch.setattr(logging.root, "handlers", [])

    def main(arguments):
        logging.getLogger("modeling_clipscratch").warning("left out: %s", "\x1b[2Ja.png")
        raise ClipScratchError("\x1b]0;b.png")

    with pytest.raises(SystemExit):
        run_command(main, [])
    assert capsys.readouterr().err == "left out: \ufffd[2Ja.png\nerror: \ufffd]0;b.png\n"


def run_in_fork(main):
    """Exit status and stderr of `run_command(main)` in a process of its own."""
    readable, writable = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            sys.stderr = os.fdopen(writable, "w")
            run_command(main, [])
        finally:
            os._exit(99)
    os.close(writable)
    with os.fdopen(readable) as stderr:
        text = stderr.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), text


def signals(number):
    os.kill(os.getpid(), number)
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


@pytest.mark.parametrize(
    ("main", "status", "sentence"),
    [
        (lambda arguments: signals(signal.SIGINT), 130, "stopped.\n"),
        (lambda arguments: signals(signal.SIGTERM), 143, "stopped by SIGTERM.\n"),
        (fails_at_the_signal, 143, "stopped by SIGTERM.\n"),
        (adds_a_note, 130, "stopped. To resume it, run it again.\n"),
        (raises(SystemExit(TERMINATED)), 143, "stopped by SIGTERM.\n"),
    ],
)
def test_signal_ends_a_command_with_one_sentence(main, status, sentence):
    assert run_in_fork(main) == (status, sentence)
