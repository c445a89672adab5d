"""A model's folder or Hub id and, if you like, a folder of pictures go in; a page to try them in the browser comes out.

python run_demo.py --model runs/mine --pictures holidays
"""

import argparse
import os
import signal
import sys

if sys.argv[0].endswith(("run_demo.py", "clipscratch-demo")):
    # While the libraries are imported; then it is `run_command`'s.
    signal.signal(signal.SIGINT, lambda *_: (os.write(2, b"stopped.\n"), os._exit(130)))

from modeling_clipscratch.cli.command_line import run_command
from modeling_clipscratch.evaluation.load_model import load_model
from modeling_clipscratch.search.demo_page import build_page, gradio_library, serve
from modeling_clipscratch.search.update_index import update_index


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="run_demo.py", description="Serves a page to try a model.")
    parser.add_argument("--model", required=True, help="folder of a trained model, or a Hub id")
    parser.add_argument("--pictures", help="folder to search; its index is made, or brought up to date, first")
    parser.add_argument("--port", type=int, default=7860, help="of this machine (default: %(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ... (default: %(default)s)")
    options = parser.parse_args(arguments)
    if not 1 <= options.port <= 65535:
        raise ValueError(f"port={options.port} is no port; choose 1024 to 65535.")
    return options


def main(arguments: list[str]) -> None:
    options = parse(arguments)
    gradio_library()  # before the model is loaded
    model, processor = load_model(options.model, options.device)
    index = None
    if options.pictures is not None:
        settings = {"model_name": options.model, "progress": sys.stderr.isatty()}
        index, changes = update_index(options.pictures, model, processor, **settings)
        print(f"{len(index.images):,} pictures in the index: {changes}")
    serve(build_page(model, processor, index, model_name=options.model), options.port)


def program() -> None:
    run_command(main)


if __name__ == "__main__":
    program()
