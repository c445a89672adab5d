"""Run a function as a program: one sentence and an exit status for errors and signals, quiet libraries."""

import _thread
import argparse
import gc
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import datasets
from safetensors import SafetensorError
from transformers.utils import logging as transformers_logging

from ..utils.errors import ClipScratchError
from ..utils.names import on_one_line, printable
from .main import close_stdout

TERMINATED = 143  # exit status after SIGTERM, as a shell reports it


def run_command(main: Callable[[list[str]], None], arguments: list[str] | None = None) -> None:
    """Run `main(arguments)` as a program.

    Errors that a user can correct (`ClipScratchError`, `OSError`, safetensors' error for a full disk) are printed to
    stderr as one sentence, with exit status 2. Any other exception is a bug and is raised. A closed stdout (`| head`)
    ends the program silently. Ctrl-C ends it with exit status 130, SIGTERM with 143, each with one sentence, to which
    notes of the exception are added.

    Args:
        main: takes the arguments.
        arguments: default `sys.argv[1:]`.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    quiet_libraries()
    stop = _Stop()
    _end_with_the_launcher(stop)
    hook, sys.unraisablehook = sys.unraisablehook, stop.raise_again
    handlers = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # paths may hold bytes that are not UTF-8
    gc.freeze()  # the libraries' objects are never freed, so garbage collection can leave them out
    try:
        main(arguments)
        sys.stdout.flush()
    except BaseException as error:
        number = signal.SIGTERM if getattr(error, "code", None) == TERMINATED else stop.number
        if number is not None:
            sentence = "stopped." if number == signal.SIGINT else "stopped by SIGTERM."
            _print_once(" ".join([sentence, *getattr(error, "__notes__", [])]))
            _leave(128 + number)
        if isinstance(error, BrokenPipeError):
            close_stdout()
            sys.exit(1)
        if not isinstance(error, (ClipScratchError, OSError, SafetensorError)):
            if (marker := _marker()) is not None and marker.exists():
                _leave(1)  # a consequence: another process failed first, and its connection broke
            raise
        _print_once(f"error: {on_one_line(str(error)) or type(error).__name__}")
        sys.exit(2)
    finally:
        sys.unraisablehook = hook
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _end_with_the_launcher(stop):
    """End this process if torchrun or accelerate launch, which started it, is killed: it would train on unnoticed."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return
    launcher = os.getppid()

    def watch():
        while os.getppid() == launcher:
            time.sleep(1)
        if stop.number is not None:  # the launcher passed a signal on; this process is about to end by itself
            time.sleep(30)
        _print_once("stopped, since the launcher is gone.")
        _leave(1)

    threading.Thread(target=watch, daemon=True).start()


class _Stop:
    """Handler of SIGINT and SIGTERM that raises. Forked processes (data loader workers) just end."""

    def __init__(self):
        self.process, self.number = os.getpid(), None

    def __call__(self, number, frame):
        if os.getpid() == self.process:
            self.number = number
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(TERMINATED)
        if number == signal.SIGTERM:
            os._exit(TERMINATED)

    def raise_again(self, unraisable):
        """Raise later what Python discarded, as it does in finalizers and after a fork."""
        if self.number is None:
            sys.__unraisablehook__(unraisable)
        elif os.getpid() == self.process:
            threading.Timer(0.1, _thread.interrupt_main, [self.number]).start()


def _leave(status):
    """End this process and its workers at once; Python's own exit would wait for threads."""
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(status)


def _print_once(sentence):
    """Print to stderr; of the processes that a launcher started on this machine, only the first one prints."""
    marker = _marker()
    try:
        if marker is not None:
            marker.touch(exist_ok=False)
    except FileExistsError:
        return
    print(sentence, file=sys.stderr, flush=True)


def _marker():
    """The file that exists once a process of the launcher has printed why it ends; `None` without a launcher."""
    error_file = Path(os.environ.get("TORCHELASTIC_ERROR_FILE", ""))  # <temporary>/attempt_0/<process>/error.json
    return error_file.parent.parent / "printed" if len(error_file.parts) > 2 and error_file.parent.is_dir() else None


def model_parser(command: str, description: str) -> argparse.ArgumentParser:
    """A parser of `clipscratch command` with `--model` and `--device`."""
    parser = argparse.ArgumentParser(prog=f"clipscratch {command}", description=description)
    parser.add_argument("--model", required=True, help="folder of a trained model, or a Hub id")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ... (default: %(default)s)")
    return parser


class _Printable(logging.Formatter):
    def format(self, record):
        return printable(super().format(record))  # messages name files, which may be called anything


def quiet_libraries() -> None:
    """Log our own messages from INFO on, those of the libraries only where something is wrong."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Printable("%(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    logging.getLogger("modeling_clipscratch").setLevel(logging.INFO)
    for noisy in ("transformers", "datasets", "huggingface_hub", "accelerate", "httpx", "PIL", "matplotlib"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    transformers_logging.disable_progress_bar()  # of weights that are read and written in a second
    datasets.disable_progress_bars()
    warnings.filterwarnings("ignore", category=FutureWarning)
