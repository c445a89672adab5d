"""`clipscratch search`: find the images nearest to a text or an image."""

import json
import os
import sys

from ..data.images.decode import decode_image
from ..evaluation.load_model import load_model
from ..search.image_index import check_model, model_fingerprint, open_index
from ..search.result_page import write_result_page
from ..search.search_index import check_query, search_index
from ..utils.names import on_one_line
from .command_line import model_parser


def main(arguments: list[str]) -> None:
    parser = model_parser("search", "Find the images nearest to a text or an image.")
    parser.add_argument("text", nargs="?", help="what the image should show")
    parser.add_argument("--image", help="an image instead of a text, to find others like it")
    parser.add_argument("--index", required=True, help="the folder of images, or that of its index")
    parser.add_argument("--top", type=int, default=10, help="how many (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--page", help="write a page of the results: an .html that needs no other file")
    options = parser.parse_args(arguments)
    check_query(text=options.text, image=options.image, top=options.top)
    index = open_index(options.index)
    image = decode_image(options.image, name=options.image) if options.image else None
    model, processor = load_model(options.model, options.device)
    check_model(index, model_fingerprint(model, processor.image_processor))
    hits = search_index(index, model, processor, text=options.text, image=image, top=options.top)
    if options.json:
        print(json.dumps([{"image": str(hit.path), "score": hit.score} for hit in hits], indent=2))
    else:
        for rank, hit in enumerate(hits, start=1):
            print(f"{rank:>3}  {hit.score:6.3f}  {on_one_line(str(hit.path))}")
    if options.page:
        write_result_page(options.page, hits, query=options.text or os.path.basename(options.image), image=image)
        print(f"wrote {options.page}", file=sys.stderr)
