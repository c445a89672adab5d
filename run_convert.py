"""A CLIP of another kind goes in; a ClipScratch folder with the same features comes out.

python run_convert.py openai/clip-vit-base-patch32 runs/clip
python run_convert.py clip.pt runs/tutorial
"""

import argparse

from modeling_clipscratch.command_line import run_command
from modeling_clipscratch.sharing.convert import convert


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="run_convert.py", description="Makes a ClipScratch folder of another model.")
    parser.add_argument(
        "source", help="folder or Hub id: CLIPModel, VisionTextDualEncoderModel; or the tutorial's clip.pt"
    )
    parser.add_argument("output", help="the new folder")
    of_file = "of clip.pt: folder or Hub id whose %s it has (default: %%(default)s)"
    parser.add_argument("--text_model", default="distilbert-base-uncased", help=of_file % "config and tokenizer")
    parser.add_argument(
        "--vision_model", default="google/vit-base-patch16-224", help=of_file % "config and image processor"
    )
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    folder = convert(**vars(parse(arguments)))
    print(f"wrote {folder}")


def program() -> None:
    run_command(main)


if __name__ == "__main__":
    program()
