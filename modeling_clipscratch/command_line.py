"""What the scripts share: one clear sentence and exit status 2 instead of a traceback, quiet libraries."""

import gc
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from itertools import pairwise

import datasets
from safetensors import SafetensorError
from transformers.utils import logging as transformers_logging

from .data.names import on_one_line, printable

_OF_THE_TRAINER = ("underflow_overflow", "tpu_metrics_debug")  # what TrainingArguments' own --debug is followed by


def run_command(main: Callable[[list[str]], None]) -> None:
    """Runs `main(arguments)` as a program.

    A `ValueError` or `OSError` is the user's to mend (safetensors has its own error for a full disk): its message goes
    to stderr as one sentence, the exit status is 2; with `--debug` anywhere on the command line the traceback comes
    too. Anything else is a bug and is raised. A reader that closes stdout (`| head`) ends it in silence.
    """
    arguments = sys.argv[1:]
    followed = enumerate(pairwise([*arguments, ""]))
    debug = [place for place, (word, after) in followed if word == "--debug" and after not in _OF_THE_TRAINER]
    quiet_libraries()
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # paths may hold bytes that are no UTF-8
    gc.freeze()  # what the libraries made is there for good: no collection need walk through it
    try:
        main([argument for place, argument in enumerate(arguments) if place not in debug])
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read has enough (`| head`); Python's own flush at the end is to find no pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (ValueError, OSError, SafetensorError) as error:
        if debug:
            traceback.print_exc()
        sentence = on_one_line(str(error)) or type(error).__name__
        print(f"error: {sentence}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped.", file=sys.stderr)
        sys.exit(130)


def once_each(what: str, names: Sequence[str]) -> None:
    """Raises: ValueError if a name is given twice."""
    twice = next((name for place, name in enumerate(names) if name in names[:place]), None)
    if twice is not None:
        raise ValueError(f"{what} {twice} is named twice; name each once.")


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
