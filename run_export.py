"""A trained folder goes in; ONNX files of its towers, or a page that runs it in the browser, come out.

python run_export.py runs/mine --output_dir onnx --precision fp32 int8
python run_export.py runs/mine --page site --pictures holidays
"""

import argparse
import os
import signal
import sys

if sys.argv[0].endswith(("run_export.py", "clipscratch-export")):
    # While the libraries are imported; then it is `run_command`'s.
    signal.signal(signal.SIGINT, lambda *_: (os.write(2, b"stopped.\n"), os._exit(130)))

from modeling_clipscratch.cli.command_line import run_command
from modeling_clipscratch.data.templates import DEFAULT_TEMPLATES
from modeling_clipscratch.sharing.export.export_onnx import export_onnx
from modeling_clipscratch.sharing.export.precision import PRECISIONS
from modeling_clipscratch.sharing.export.web_page import check_page, write_page


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="run_export.py", description="Exports a trained model.")
    add = parser.add_argument
    add("folder", help="folder of a trained model")
    add("--output_dir", help="new folder for the ONNX files and what is needed beside them")
    add("--precision", nargs="+", choices=PRECISIONS, help="of the ONNX files (default: fp32)")
    add("--page", help="new folder for a static page that runs the model in the browser; needs npm")
    add("--pictures", help="folder of pictures that can be searched on the page")
    add("--labels", nargs="+", default=[], help="labels that the page begins with")
    add("--template", help=f"{{}} stands for the label (default: {DEFAULT_TEMPLATES[0]})")
    options = parser.parse_args(arguments)
    if options.output_dir is None and options.page is None:
        raise ValueError("nothing to write: give --output_dir for ONNX files, --page for a page, or both.")
    if options.page is None and (options.pictures is not None or options.labels or options.template is not None):
        raise ValueError("--pictures, --labels and --template are of the page; give --page too.")
    if options.output_dir is None and options.precision is not None:
        raise ValueError("--precision is of the ONNX files; give --output_dir too.")
    options.precision = options.precision or ["fp32"]
    options.template = DEFAULT_TEMPLATES[0] if options.template is None else options.template
    return options


def main(arguments: list[str]) -> None:
    options = parse(arguments)
    settings = {name: vars(options)[name] for name in ("pictures", "labels", "template")}
    if options.page is not None:
        check_page(options.page, **settings)  # an export before it takes its time
    if options.output_dir is not None:
        told = export_onnx(options.folder, options.output_dir, precisions=options.precision)
        for precision, sides in told["largest_distance"].items():
            apart = ", ".join(f"{side} {distance:.1e}" for side, distance in sides.items())
            print(f"{precision}: largest distance to PyTorch's embeddings: {apart}")
        print(f"wrote {options.output_dir}")
    if options.page is not None:
        print(f"wrote {write_page(options.folder, options.page, **settings)}")


def program() -> None:
    run_command(main)


if __name__ == "__main__":
    program()
