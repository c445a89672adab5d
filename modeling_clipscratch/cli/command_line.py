"""What the scripts share: the options of data, one sentence and an exit status for errors, quiet libraries."""

import argparse
import gc
import logging
import multiprocessing
import os
import re
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import datasets
from safetensors import SafetensorError
from transformers.utils import logging as transformers_logging

from ..data.columns import DATA_OPTIONS, DataOptions
from ..hub.errors_clipscratch import ClipScratchError
from ..utils.names import on_one_line, printable

TERMINATED = 143  # exit status after SIGTERM, as a shell reports it
_OF_THE_TRAINER = ("underflow_overflow", "tpu_metrics_debug")  # what TrainingArguments' own --debug is followed by


def run_command(main: Callable[[list[str]], None]) -> None:
    """Runs `main(arguments)` as a program.

    A user can correct a `ClipScratchError` or an `OSError` (and safetensors' error for a full disk): its message goes
    to stderr as one sentence, the exit status is 2; with `--debug` anywhere on the command line the traceback comes
    too. Anything else is a bug and is raised. A reader that closes stdout (`| head`) ends it in silence. Ctrl-C ends it
    with exit status 130, SIGTERM with 143, each with one sentence; notes of the exception are added to it.
    """
    arguments = sys.argv[1:]
    followed = enumerate(pairwise([*arguments, ""]))
    debug = [place for place, (word, after) in followed if word == "--debug" and after not in _OF_THE_TRAINER]
    quiet_libraries()
    _end_with_the_launcher()
    stop = _Stop()
    handlers = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    sys.unraisablehook = _stop_again
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # paths may hold bytes that are no UTF-8
    gc.freeze()  # what the libraries made is there for good: no collection need walk through it
    try:
        main([argument for place, argument in enumerate(arguments) if place not in debug])
        sys.stdout.flush()
    except BaseException as error:
        if stop.number is not None or getattr(error, "code", None) == TERMINATED:
            _end(stop.number or signal.SIGTERM, getattr(error, "__notes__", []))
        if isinstance(error, BrokenPipeError):  # whoever read has enough (`| head`)
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more at its end
            sys.exit(1)
        if not isinstance(error, (ClipScratchError, OSError, SafetensorError)):
            if (marker := _marker()) is not None and marker.exists():
                _leave(1)  # another process ended, which this one met as a broken connection
            raise
        if debug:
            traceback.print_exc()
        sentence = on_one_line(str(error)) or type(error).__name__
        _say_once(f"error: {sentence}")
        sys.exit(2)
    finally:
        sys.unraisablehook = sys.__unraisablehook__
        for number, handler in handlers.items():
            signal.signal(number, handler)


class _Stop:
    """Handler of SIGINT and SIGTERM: raises what ends the program. Its forks (data loader workers) end with it."""

    def __init__(self):
        self.process, self.number = os.getpid(), None

    def __call__(self, number, frame):
        if os.getpid() == self.process:
            self.number = number
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(TERMINATED)
        if number == signal.SIGTERM:
            os._exit(TERMINATED)


def _stop_again(unraisable):
    """A signal that Python meets in a `__del__`, or between the halves of a fork, is sent again: it would be lost."""
    number = {KeyboardInterrupt: signal.SIGINT, SystemExit: signal.SIGTERM}.get(unraisable.exc_type)
    if number is None:
        sys.__unraisablehook__(unraisable)
    else:
        threading.Timer(0.05, os.kill, (os.getpid(), number)).start()


def _end(number, notes):
    _say_once(" ".join(["stopped." if number == signal.SIGINT else "stopped by SIGTERM.", *notes]))
    _leave(128 + number)


def _leave(status):
    """Ends the process and its workers; Python's own end would wait for threads, and report what was cut short."""
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(status)


def _say_once(sentence):
    """Prints to stderr; of the processes that a launcher started on this machine, only the first that has something to
    say: they fail alike, or one after the other."""
    marker = _marker()
    try:
        if marker is not None:
            marker.touch(exist_ok=False)
    except FileExistsError:
        return
    print(sentence, file=sys.stderr, flush=True)


def _marker():
    """File that is there once one of a launcher's processes has said why they end; `None` without a launcher."""
    error_file = Path(os.environ.get("TORCHELASTIC_ERROR_FILE", ""))  # <temporary>/attempt_0/<process>/error.json
    return error_file.parent.parent / "said" if len(error_file.parts) > 2 and error_file.parent.is_dir() else None


def _end_with_the_launcher():
    """Ends this process when torchrun or accelerate launch, which started it, is killed: it would train on unseen."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return
    launcher = os.getppid()

    def watch():
        while os.getppid() == launcher:
            time.sleep(1)
        _say_once("stopped, since the launcher is gone.")
        _leave(1)

    threading.Thread(target=watch, daemon=True).start()


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """Add an option for each field of `DataOptions`, with its help from there."""
    about = DataOptions.__doc__.partition("Args:")[2].partition("\n\n")[0]
    entries = re.findall(r"^ {8}(\w+(?:, \w+)*): (.*(?:\n {12}.*)*)", about, re.MULTILINE)
    helps = {name: " ".join(text.split()) for names, text in entries for name in names.split(", ")}
    for option, field in DATA_OPTIONS.items():
        kinds = [field.type, *get_args(field.type)]
        choices = [value for kind in kinds if get_origin(kind) is Literal for value in get_args(kind)]
        parser.add_argument(
            f"--{option}",
            default=field.default,
            choices=choices or None,
            nargs="+" if Sequence[str] in kinds else None,
            help=helps.get(field.name, "").replace("%", "%%"),
        )


def data_options(options: argparse.Namespace) -> dict[str, Any]:
    """The options that `add_data_options` added, as `load_data` takes them."""
    return {field.name: getattr(options, option) for option, field in DATA_OPTIONS.items()}


class _Printable(logging.Formatter):
    """Names of files, of anybody's, get into messages."""

    def format(self, record):
        return printable(super().format(record))


def quiet_libraries() -> None:
    """Our own messages at info; those of the libraries only where something is wrong."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Printable("%(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    logging.getLogger("modeling_clipscratch").setLevel(logging.INFO)
    for noisy in ("transformers", "datasets", "huggingface_hub", "accelerate", "httpx", "PIL", "matplotlib"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    transformers_logging.disable_progress_bar()  # weights are written and read in a blink
    datasets.disable_progress_bars()
    warnings.filterwarnings("ignore", category=FutureWarning)
