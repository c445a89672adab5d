"""`clipscratch classify`: rank labels for images."""

import json
import logging

from ..data.images.decode import BadImageError, decode_image
from ..data.templates import DEFAULT_TEMPLATES
from ..evaluation.load_model import load_model
from ..evaluation.rank_labels import bars, check_labels, rank_labels
from .command_line import model_parser

logger = logging.getLogger(__name__)


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
    paths, problems = [], []

    def images():  # one in memory at a time
        for path in options.images:
            try:
                image = decode_image(path, name=path)
            except BadImageError as error:
                problems.append(error)
            else:
                paths.append(path)
                yield image
        if not paths:
            raise problems[0]

    model, processor = load_model(options.model, options.device)
    ranked = rank_labels(model, processor, images(), options.labels, templates=templates)
    if problems:
        logger.warning("%d of %d images cannot be read: %s", len(problems), len(options.images), problems[0])
    if options.json:
        entries = [{"image": path, "labels": labels} for path, labels in zip(paths, ranked, strict=True)]
        print(json.dumps(entries, indent=2, ensure_ascii=False))
    else:
        print("\n".join(f"{path}\n{bars(labels)}" for path, labels in zip(paths, ranked, strict=True)))
