"""`clipscratch export`: export a model to ONNX, or to a web page that runs it."""

import argparse

from ..sharing.export.export_onnx import PRECISIONS, export_onnx
from ..sharing.export.web_page import check_page, write_page
from ..utils.errors import ClipScratchError


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="clipscratch export", description="Export a trained model.")
    add = parser.add_argument
    add("folder", help="folder of a trained model")
    add("--output_dir", help="new folder for the ONNX files and what is needed beside them")
    add("--precision", nargs="+", choices=PRECISIONS, default=["fp32"], help="of the ONNX files (default: fp32)")
    add("--page", help="new folder for a static page that runs the model in the browser; needs npm")
    add("--images", help="folder of images to search on the page")
    add("--labels", nargs="+", help="labels on the page at its start (default: the model's classes)")
    add("--template", help="prompt on the page, {} stands for the label (default: the model's first)")
    options = parser.parse_args(arguments)
    if options.output_dir is None and options.page is None:
        raise ClipScratchError("nothing to write: give --output_dir for ONNX files, --page for a page, or both.")
    if options.page is None and (options.images or options.labels or options.template):
        raise ClipScratchError("--images, --labels and --template are for the page; give --page too.")
    settings = {"images": options.images, "labels": options.labels, "template": options.template}
    if options.page is not None:
        check_page(options.page, **settings)  # raises before the export, which takes long
    if options.output_dir is not None:
        report = export_onnx(options.folder, options.output_dir, precisions=options.precision)
        for precision, sides in report["largest_distance"].items():
            distances = ", ".join(f"{side} {distance:.1e}" for side, distance in sides.items())
            print(f"{precision}: largest distance to PyTorch's embeddings: {distances}")
        print(f"wrote {options.output_dir}")
    if options.page is not None:
        print(f"wrote {write_page(options.folder, options.page, **settings)}")
