"""`clipscratch index`: make or update the search index of a folder of images."""

import sys

from ..evaluation.load_model import load_model
from ..search.image_index import update_index
from .command_line import model_parser


def main(arguments: list[str]) -> None:
    parser = model_parser("index", "Make or update the search index of a folder of images.")
    parser.add_argument("folder", help="folder of images, at any depth")
    parser.add_argument("--index", help="folder of the index (default: .clipscratch-index in the folder)")
    parser.add_argument("--rebuild", action="store_true", help="encode all images again, for instance with a new model")
    options = parser.parse_args(arguments)
    model, processor = load_model(options.model, options.device)
    settings = {"model_name": options.model, "where": options.index, "rebuild": options.rebuild}
    index, changes = update_index(options.folder, model, processor, progress=sys.stderr.isatty(), **settings)
    print(f"{len(index.images):,} images in the index: {changes}")
