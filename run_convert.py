"""A CLIP of another kind goes in; a ClipScratch folder with the same features comes out.

python run_convert.py openai/clip-vit-base-patch32 runs/clip
python run_convert.py clip.pt runs/tutorial
"""

import argparse
import os
import signal
import sys
from pathlib import Path

if sys.argv[0].endswith(("run_convert.py", "clipscratch-convert")):
    # While the libraries are imported; then it is `run_command`'s.
    signal.signal(signal.SIGINT, lambda *_: (os.write(2, b"stopped.\n"), os._exit(130)))

from modeling_clipscratch.cli.command_line import run_command
from modeling_clipscratch.sharing.convert import convert

TEXT_MODEL, VISION_MODEL = "distilbert-base-uncased", "google/vit-base-patch16-224"  # the tutorial's


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="run_convert.py", description="Makes a ClipScratch folder of another model.")
    parser.add_argument(
        "source", help="folder or Hub id: CLIPModel, VisionTextDualEncoderModel; or the tutorial's clip.pt"
    )
    parser.add_argument("output", help="the new folder")
    of_file = "of clip.pt: folder or Hub id whose %s it has (default: %s)"
    parser.add_argument("--text_model", help=of_file % ("config and tokenizer", TEXT_MODEL))
    parser.add_argument("--vision_model", help=of_file % ("config and image processor", VISION_MODEL))
    options = parser.parse_args(arguments)
    if not Path(options.source).is_file() and (options.text_model or options.vision_model):
        raise ValueError(
            f"--text_model and --vision_model are of a file of weights, and {options.source} is none; leave them out."
        )
    options.text_model = options.text_model or TEXT_MODEL
    options.vision_model = options.vision_model or VISION_MODEL
    return options


def main(arguments: list[str]) -> None:
    folder = convert(**vars(parse(arguments)))
    print(f"wrote {folder}")


def program() -> None:
    run_command(main)


if __name__ == "__main__":
    program()
