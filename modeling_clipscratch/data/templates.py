"""A published list's name, a text file or prompts themselves go in; checked templates or class names come out.

The lists are facts of CLIP's release (github.com/openai/CLIP): `data/prompts.md` for CIFAR-10 and CIFAR-100,
`notebooks/Prompt_Engineering_for_ImageNet.ipynb` for ImageNet. `{}` stands for the class.
"""

import difflib
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ..hub.errors_clipscratch import ClipScratchError
from ..utils.local_files import check_regular

logger = logging.getLogger(__name__)

# `datasets` knows no two classes of one name, which ImageNet's published list has; this sets the second one apart.
ALIKE = "\N{ZERO WIDTH SPACE}"

DEFAULT_TEMPLATES = ("a photo of a {}.",)

CIFAR = (
    "a photo of a {}.",
    "a blurry photo of a {}.",
    "a black and white photo of a {}.",
    "a low contrast photo of a {}.",
    "a high contrast photo of a {}.",
    "a bad photo of a {}.",
    "a good photo of a {}.",
    "a photo of a small {}.",
    "a photo of a big {}.",
    "a photo of the {}.",
    "a blurry photo of the {}.",
    "a black and white photo of the {}.",
    "a low contrast photo of the {}.",
    "a high contrast photo of the {}.",
    "a bad photo of the {}.",
    "a good photo of the {}.",
    "a photo of the small {}.",
    "a photo of the big {}.",
)
IMAGENET = (
    "a bad photo of a {}.",
    "a photo of many {}.",
    "a sculpture of a {}.",
    "a photo of the hard to see {}.",
    "a low resolution photo of the {}.",
    "a rendering of a {}.",
    "graffiti of a {}.",
    "a bad photo of the {}.",
    "a cropped photo of the {}.",
    "a tattoo of a {}.",
    "the embroidered {}.",
    "a photo of a hard to see {}.",
    "a bright photo of a {}.",
    "a photo of a clean {}.",
    "a photo of a dirty {}.",
    "a dark photo of the {}.",
    "a drawing of a {}.",
    "a photo of my {}.",
    "the plastic {}.",
    "a photo of the cool {}.",
    "a close-up photo of a {}.",
    "a black and white photo of the {}.",
    "a painting of the {}.",
    "a painting of a {}.",
    "a pixelated photo of the {}.",
    "a sculpture of the {}.",
    "a bright photo of the {}.",
    "a cropped photo of a {}.",
    "a plastic {}.",
    "a photo of the dirty {}.",
    "a jpeg corrupted photo of a {}.",
    "a blurry photo of the {}.",
    "a photo of the {}.",
    "a good photo of the {}.",
    "a rendering of the {}.",
    "a {} in a video game.",
    "a photo of one {}.",
    "a doodle of a {}.",
    "a close-up photo of the {}.",
    "a photo of a {}.",
    "the origami {}.",
    "the {} in a video game.",
    "a sketch of a {}.",
    "a doodle of the {}.",
    "a origami {}.",
    "a low resolution photo of a {}.",
    "the toy {}.",
    "a rendition of the {}.",
    "a photo of the clean {}.",
    "a photo of a large {}.",
    "a rendition of a {}.",
    "a photo of a nice {}.",
    "a photo of a weird {}.",
    "a blurry photo of a {}.",
    "a cartoon {}.",
    "art of a {}.",
    "a sketch of the {}.",
    "a embroidered {}.",
    "a pixelated photo of a {}.",
    "itap of the {}.",
    "a jpeg corrupted photo of the {}.",
    "a good photo of a {}.",
    "a plushie {}.",
    "a photo of the nice {}.",
    "a photo of the small {}.",
    "a photo of the weird {}.",
    "the cartoon {}.",
    "art of the {}.",
    "a drawing of the {}.",
    "a photo of the large {}.",
    "a black and white photo of a {}.",
    "the plushie {}.",
    "a dark photo of a {}.",
    "itap of a {}.",
    "graffiti of the {}.",
    "a toy {}.",
    "itap of my {}.",
    "a photo of a cool {}.",
    "a photo of a small {}.",
    "a tattoo of the {}.",
)
# CIFAR-100 was measured with CIFAR-10's prompts.
TEMPLATES = {"cifar10": CIFAR, "cifar100": CIFAR, "imagenet": IMAGENET}


def named_templates(name: str) -> list[str]:
    """A published list by its name.

    Raises: ClipScratchError, with the nearest name, if there is no such list.

    >>> len(named_templates("imagenet")), named_templates("cifar10")[0]
    (80, 'a photo of a {}.')
    """
    if name not in TEMPLATES:
        near = difflib.get_close_matches(name.lower(), TEMPLATES, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(TEMPLATES)}."
        raise ClipScratchError(
            f"templates {name!r} is no published list, no .txt file and no prompt with {{}} for the class; {hint}"
        )
    return list(TEMPLATES[name])


def templates_from(words: Sequence[str]) -> list[str]:
    """What stands behind `--templates`: one name of a published list, one `.txt` file (a prompt a line), or prompts.

    In a file clip-benchmark's `{c}` stands for the class as `{}` does.

    Raises: ClipScratchError if the name is unknown, the file is missing or empty, or a prompt has no place for the
        class.

    >>> templates_from(["a drawing of a {}."])
    ['a drawing of a {}.']
    """
    if len(words) == 1 and words[0].endswith(".txt"):
        found = [line.replace("{c}", "{}") for line in _lines(words[0]) if line]
    elif len(words) == 1 and "{}" not in words[0] and len(words[0].split()) == 1:
        found = named_templates(words[0])
    else:
        found = list(words)
    check_templates(found)
    return found


def class_names_from(words: Sequence[str]) -> list[str]:
    """What stands behind `--class_names`: one `.txt` file (a name a line, in label order), or the names themselves.

    Raises: ClipScratchError if the file is missing or empty, or a name is empty or given twice.
    """
    found = _lines(words[0]) if len(words) == 1 and words[0].endswith(".txt") else list(words)
    check_class_names(found)
    return found


def published_class_names(path: Path) -> list[str]:
    """Read a dataset's own list, a name a line in label order.

    A name of several classes is logged. Marks (`ALIKE`) set them apart; `dataset.class_names` leaves the marks out.

    Raises: ClipScratchError if the file is missing or empty, or skips a line, which would shift the labels.
    """
    names = _lines(path)
    _check_none_is_empty(names)
    if twice := _given_twice(names):
        logger.warning("%s: %s stand for several classes each, which no prompt can tell apart.", path, ", ".join(twice))
    return [name + ALIKE * names[:number].count(name) for number, name in enumerate(names)]


def check_templates(templates: Sequence[str]) -> None:
    """Raises: ClipScratchError if a template has no `{}`."""
    wrong = next((template for template in templates if "{}" not in template), None)
    if wrong is not None:
        raise ClipScratchError(
            f"template {wrong!r} has no {{}}, where the class would go; for example 'a photo of a {{}}.'"
        )


def check_class_names(labels: Sequence[str]) -> None:
    """Raises: ClipScratchError if a label is empty or given twice: two classes of one name tie in every picture."""
    _check_none_is_empty(labels)
    for label in _given_twice(labels):
        raise ClipScratchError(f"label {label!r} is given twice; name each class once, and no two alike.")


def _check_none_is_empty(labels):
    for number, label in enumerate(labels, 1):
        if not label.strip():
            raise ClipScratchError(f"label {number} of {len(labels)} is empty; give each class a name.")


def _given_twice(labels):
    return [label for label, count in Counter(labels).items() if count > 1]


def _lines(path):
    """The lines of a text file without the empty ones at its end; those in between would shift the labels."""
    file = Path(path).expanduser()
    check_regular(file)
    if not file.is_file():
        raise ClipScratchError(f"{path}: there is no such file; check the path (seen from {Path.cwd()}).")
    try:
        lines = file.read_text(encoding="utf-8-sig").rstrip().splitlines()
    except UnicodeDecodeError as error:
        raise ClipScratchError(
            f"{path}: is not text in UTF-8 ({error.reason} at byte {error.start}); save it so."
        ) from error
    if not lines:
        raise ClipScratchError(f"{path}: is empty; write one entry a line.")
    return [line.strip() for line in lines]


def class_prompts(class_name: str, templates: Sequence[str]) -> list[str]:
    """
    >>> class_prompts("cat", ["a photo of a {}.", "a drawing of a {}."])
    ['a photo of a cat.', 'a drawing of a cat.']
    """
    return [template.replace("{}", class_name) for template in templates]
