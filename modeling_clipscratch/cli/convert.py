"""`clipscratch convert`: convert a CLIP of another format to a ClipScratch folder with the same features."""

import argparse

from ..sharing.convert_model import convert


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="clipscratch convert", description="Convert a CLIP of another format to a ClipScratch folder."
    )
    parser.add_argument("source", help="folder or Hub id of a CLIPModel or VisionTextDualEncoderModel")
    parser.add_argument("output", help="the new folder")
    options = parser.parse_args(arguments)
    print(f"wrote {convert(options.source, options.output)}")
