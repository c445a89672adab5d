"""Run a function as a program: one sentence and an exit status for errors and signals, quiet libraries."""

import argparse
import gc
import logging
import multiprocessing
import os
import signal
import sys
import warnings
from collections.abc import Callable

import datasets
from safetensors import SafetensorError
from transformers.utils import logging as transformers_logging

from ..utils.errors import ClipScratchError
from ..utils.names import on_one_line, printable

TERMINATED = 143  # exit status after SIGTERM, as a shell reports it


def run_command(main: Callable[[list[str]], None], arguments: list[str] | None = None) -> None:
    """Run `main(arguments)`, by default those of `sys.argv`, as a program.

    Errors that a user can correct are printed as one sentence, with exit status 2. Any other exception is a bug and is
    raised. Ctrl-C ends the program with exit status 130, SIGTERM with 143, each with one sentence, to which notes of
    the exception are added.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    quiet_libraries()
    stop = _Stop()
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
            if int(os.environ.get("LOCAL_RANK", 0)) == 0:  # of the processes of a launcher, the first one prints
                print(sentence, *getattr(error, "__notes__", []), file=sys.stderr, flush=True)
            for child in multiprocessing.active_children():
                child.kill()
            os._exit(128 + number)  # Python's own exit would wait for threads
        if isinstance(error, BrokenPipeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes stdout again at its end
            sys.exit(1)
        if not isinstance(error, (ClipScratchError, OSError, SafetensorError)):  # safetensors' own, for a full disk
            raise
        print(f"error: {on_one_line(str(error)) or type(error).__name__}", file=sys.stderr, flush=True)
        sys.exit(2)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


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
