"""Find the command that a command line names, and run it. Imports no library until then."""

import multiprocessing
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
    "share": "publish a model with its card on the Hub",
    "export": "export a model to ONNX, or to a web page that runs it",
    "convert": "convert a CLIP of another format",
}
_SCRIPTS = ("run_train.py", "run_eval.py", "run_inference.py")  # beside the package in a clone


def is_program() -> bool:
    """Whether this process runs `clipscratch` or a script of the clone, rather than code that imports the package."""
    path = Path(sys.argv[0])
    script = path.name in _SCRIPTS and path.resolve().parent == Path(__file__).resolve().parents[2]
    return (script or path.name in ("clipscratch", "clipscratch.exe")) and multiprocessing.parent_process() is None


def main(name: str | None = None) -> None:
    """Run a command, by default the one that the first word of `sys.argv` names."""
    arguments = sys.argv[1:]
    if name is None:
        name, *arguments = arguments or ["--help"]
    if name in ("-h", "--help"):
        lines = [f"  {command:<10}{about}" for command, about in COMMANDS.items()]
        print("usage: clipscratch COMMAND ...\n\ncommands (each has a --help):", *lines, sep="\n")
        return
    if name not in COMMANDS:
        print(f"error: {name} is not a command; choose one of {', '.join(COMMANDS)}.", file=sys.stderr)
        sys.exit(2)

    from .. import register

    register()
    command = import_module(f".{name}", __package__).main
    import_module(".command_line", __package__).run_command(command, arguments)
