"""The commands go in; what their help brings along, and so makes the user wait for, is checked."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import SafetensorError

from modeling_clipscratch.command_line import run_command

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
    script = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); from modeling_clipscratch.command_line import run_command\n"
    )
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
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from modeling_clipscratch import command_line\n"
    program += "import logging\n"
    program += "def main(arguments):\n"
    program += "    logging.getLogger('modeling_clipscratch').warning('left out: %s', '\\x1b[2Ja.png')\n"
    program += "    raise ValueError('\\x1b]0;b.png')\ncommand_line.run_command(main)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stderr == "left out: \ufffd[2Ja.png\nerror: \ufffd]0;b.png\n"
