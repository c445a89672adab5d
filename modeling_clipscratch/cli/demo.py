"""`clipscratch demo`: serve a web page to try a model."""

import sys

from ..evaluation.load_model import load_model
from ..search.demo_page import build_page, gradio_library, serve
from ..search.image_index import update_index
from ..utils.errors import ClipScratchError
from .command_line import model_parser


def main(arguments: list[str]) -> None:
    parser = model_parser("demo", "Serve a web page to try a model.")
    parser.add_argument("--images", help="folder to search; its index is made or updated first")
    parser.add_argument("--port", type=int, default=7860, help="on this machine (default: %(default)s)")
    options = parser.parse_args(arguments)
    if not 1 <= options.port <= 65535:
        raise ClipScratchError(f"port={options.port} is not a port; choose 1024 to 65535.")
    gradio_library()  # raises before the model is loaded
    model, processor = load_model(options.model, options.device)
    index = None
    if options.images is not None:
        settings = {"model_name": options.model, "progress": sys.stderr.isatty()}
        index, changes = update_index(options.images, model, processor, **settings)
        print(f"{len(index.images):,} images in the index: {changes}")
    serve(build_page(model, processor, index, model_name=options.model), options.port)
