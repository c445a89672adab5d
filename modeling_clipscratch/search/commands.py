"""A command line goes in; `run_inference.py index` and `search` come out."""

import argparse
import json
import os
import sys

from ..data.images.decode import decode_image
from ..evaluation.load_model import load_model
from ..utils.names import on_one_line
from .index_files import check_model, find_index, model_fingerprint, open_index
from .result_page import check_result_page, write_result_page
from .search_index import check_query, search_index
from .update_index import update_index


def add_index_command(subparsers, every: argparse.ArgumentParser) -> None:
    """Adds `index` and its options to the commands of run_inference.py."""
    parser = subparsers.add_parser(
        "index", parents=[every], help="makes the index of a folder of pictures, or brings it up to date"
    )
    parser.add_argument("folder", help="the pictures, at any depth")
    parser.add_argument("--index", help="folder of the index (default: .clipscratch-index in the folder)")
    parser.add_argument("--rebuild", action="store_true", help="encode everything anew, for instance with a new model")
    parser.add_argument(
        "--on_bad_row",
        choices=["skip", "raise"],
        default="skip",
        help="unreadable pictures: name them and go on, or stop at the first (default: %(default)s)",
    )
    parser.set_defaults(run=index_command)


def add_search_command(subparsers, every: argparse.ArgumentParser) -> None:
    """Adds `search` and its options to the commands of run_inference.py."""
    parser = subparsers.add_parser("search", parents=[every], help="the pictures nearest to a text or a picture")
    parser.add_argument("text", nargs="?", help="what the picture should show")
    parser.add_argument("--image", help="a picture instead of a text: look for others like it")
    parser.add_argument("--index", required=True, help="the folder of pictures, or that of its index")
    parser.add_argument("--top", type=int, default=10, help="how many (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--page", help="write the results as one HTML file that needs no other file")
    parser.set_defaults(run=search_command)


def index_command(options: argparse.Namespace) -> None:
    """Makes an index or brings it up to date, and says what changed."""
    model, processor = load_model(options.model, options.device)
    index, changes = update_index(
        options.folder,
        model,
        processor,
        model_name=options.model,
        where=options.index,
        rebuild=options.rebuild,
        on_bad_row=options.on_bad_row,
        progress=sys.stderr.isatty(),
    )
    print(f"{len(index.images):,} pictures in the index: {changes}")


def search_command(options: argparse.Namespace) -> None:
    """Prints what a search found, and writes the sheet where one is wanted."""
    check_query(text=options.text, image=options.image, top=options.top)
    if options.page:
        check_result_page(options.page)
    where = find_index(options.index)
    image = decode_image(options.image, name=options.image) if options.image else None
    index = open_index(where)
    model, processor = load_model(options.model, options.device)
    check_model(index, where, model_fingerprint(model, processor.image_processor))
    hits = search_index(index, model, processor, text=options.text, image=image, top=options.top)
    if options.json:
        print(json.dumps([{"image": str(hit.path), "score": hit.score} for hit in hits], indent=2))
    else:
        for place, hit in enumerate(hits, start=1):
            print(f"{place:>3}  {hit.score:6.3f}  {on_one_line(str(hit.path))}")
    if options.page:
        write_result_page(options.page, hits, query=options.text or os.path.basename(options.image), image=image)
        print(f"wrote {options.page}", file=sys.stderr)
