"""Find the command that a command line names, and run it. Imports no library until then."""

import multiprocessing
import os
import signal
import sys
from importlib import import_module
from pathlib import Path

COMMANDS = {
    "train": "train a model from a recipe",
    "eval": "measure models on datasets, write a report",
    "classify": "rank labels for images",
    "index": "make or update the search index of a folder of images",
    "search": "find the images nearest to a text or an image",
    "demo": "serve a web page to try a model",
    "share": "write the model card, publish a model on the Hub",
    "export": "export a model to ONNX, or to a web page that runs it",
    "convert": "convert a CLIP of another format",
}
_SCRIPTS = ("run_train.py", "run_eval.py", "run_inference.py")  # beside the package in a clone


def is_program() -> bool:
    """Whether this process runs `clipscratch` or a script of the clone, rather than code that imports the package."""
    path = Path(sys.argv[0])
    script = path.name in _SCRIPTS and path.resolve().parent == Path(__file__).resolve().parents[2]
    return (script or path.name in ("clipscratch", "clipscratch.exe")) and multiprocessing.parent_process() is None


def end_at_interrupt() -> None:
    """End without a traceback at Ctrl-C, for the seconds until `run_command` has handlers of its own."""
    signal.signal(signal.SIGINT, lambda *_: (os.write(2, b"stopped.\n"), os._exit(130)))


def close_stdout() -> None:
    """Discard what is still to be printed, after the reader of a pipe (`| head`) has gone."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes stdout again at its end


def main(*offered: str) -> None:
    """Run the command that `sys.argv` names.

    Args:
        offered: names of the commands to choose from; all by default. A single one is not named on the command line;
            of several given here, the first is run where the arguments begin with an option.
    """
    program, arguments = Path(sys.argv[0]).name, sys.argv[1:]
    names = offered or tuple(COMMANDS)
    first = arguments[0] if arguments else "--help"
    if len(offered) == 1 or (offered and first.startswith("-") and first not in ("-h", "--help")):
        name = offered[0]
    elif first in names:
        name, *arguments = arguments
    elif first in ("-h", "--help"):
        lines = [f"  {name:<10}{COMMANDS[name]}" for name in names]
        try:
            print(f"usage: {program} COMMAND ...\n\ncommands (each has a --help):", *lines, sep="\n", flush=True)
        except BrokenPipeError:
            close_stdout()
        return
    else:
        from difflib import get_close_matches

        near = get_close_matches(first, names, 1)
        hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(names)}."
        print(f"error: {first} is not a command; {hint}", file=sys.stderr)
        sys.exit(2)

    from .. import register

    register()
    command = import_module(f".{name}", __package__).main
    import_module(".command_line", __package__).run_command(command, arguments)
