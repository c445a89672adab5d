"""`clipscratch convert`: convert a CLIP of another format to a ClipScratch folder with the same features."""

import argparse
from pathlib import Path

from ..sharing.convert_model import convert
from ..utils.errors import ClipScratchError

_TUTORIAL = {"text_model": "distilbert-base-uncased", "vision_model": "google/vit-base-patch16-224"}


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="clipscratch convert", description="Convert a CLIP of another format to a ClipScratch folder."
    )
    parser.add_argument(
        "source", help="folder or Hub id of a CLIPModel or VisionTextDualEncoderModel, or the tutorial's clip.pt"
    )
    parser.add_argument("output", help="the new folder")
    about = "for clip.pt: folder or Hub id of the model whose config and %s it uses (default: %s)"
    parser.add_argument("--text_model", help=about % ("tokenizer", _TUTORIAL["text_model"]))
    parser.add_argument("--vision_model", help=about % ("image processor", _TUTORIAL["vision_model"]))
    options = parser.parse_args(arguments)
    if not Path(options.source).is_file() and (options.text_model or options.vision_model):
        raise ClipScratchError(
            f"--text_model and --vision_model are for a file of weights, and {options.source} is not a file; leave "
            "them out."
        )
    towers = {name: getattr(options, name) or default for name, default in _TUTORIAL.items()}
    print(f"wrote {convert(options.source, options.output, **towers)}")
