"""`clipscratch classify`: rank labels for images."""

import json
from pathlib import Path

from ..data.images.decode import decode_image
from ..data.templates import DEFAULT_TEMPLATES
from ..evaluation.load_model import load_model
from ..evaluation.rank_labels import bars, check_labels, rank_labels
from .command_line import model_parser


def main(arguments: list[str]) -> None:
    parser = model_parser("classify", "Rank labels for images.")
    parser.add_argument("--images", required=True, nargs="+", help="image files")
    parser.add_argument("--labels", nargs="+", help="two labels or more (default: the classes of the training)")
    parser.add_argument("--template", help="prompt, {} stands for the label (default: the prompts of the training)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    templates = [options.template] if options.template else None
    if options.labels:
        check_labels(options.labels, templates or DEFAULT_TEMPLATES)
    for path in options.images:
        if not Path(path).is_file():
            decode_image(path, name=path)  # raises before the model is loaded
    images = (decode_image(path, name=path) for path in options.images)  # one in memory at a time
    model, processor = load_model(options.model, options.device)
    ranked = rank_labels(model, processor, images, options.labels, templates=templates)
    results = list(zip(options.images, ranked, strict=True))
    if options.json:
        entries = [{"image": path, "labels": labels} for path, labels in results]
        print(json.dumps(entries, indent=2, ensure_ascii=False))
    else:
        print("\n".join(f"{path}\n{bars(labels)}" for path, labels in results))
