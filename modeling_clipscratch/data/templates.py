"""Read prompt templates and class names from a published list, a text file or the command line, and check them.

The published lists are those of CLIP's release (github.com/openai/CLIP): `data/prompts.md` for CIFAR-10 and CIFAR-100,
`notebooks/Prompt_Engineering_for_ImageNet.ipynb` for ImageNet. `{}` stands for the class.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ..utils.errors import ClipScratchError
from ..utils.local_files import read_text

DEFAULT_TEMPLATES = ("a photo of a {}.",)
# ClassLabel allows no two classes of one name, which ImageNet's published list has. This mark makes them differ.
ALIKE = "\N{ZERO WIDTH SPACE}"

# CLIP's authors measured CIFAR-100 with the prompts of CIFAR-10.
PUBLISHED = {
    name: Path(__file__).with_name("prompts") / file
    for name, file in {"cifar10": "cifar.txt", "cifar100": "cifar.txt", "imagenet": "imagenet.txt"}.items()
}


def templates_from(values: str | Sequence[str]) -> list[str]:
    """Return the templates of one published list, of one `.txt` file with a prompt a line, or these prompts.

    In a file `{c}` stands for the class as well, which is how CLIP_benchmark writes it.
    """
    values = [values] if isinstance(values, str) else list(values)
    if len(values) == 1 and (name := values[0]) in PUBLISHED:
        values = _lines(PUBLISHED[name])
    elif len(values) == 1 and name.endswith(".txt"):
        values = [line.replace("{c}", "{}") for line in _lines(name) if line]
    elif len(values) == 1 and "{}" not in name and len(name.split()) == 1:
        raise ClipScratchError(
            f"templates {name!r} is not a published list ({', '.join(PUBLISHED)}), a .txt file or a prompt with {{}} "
            "for the class."
        )
    check_templates(values)
    return values


def class_names_from(values: str | Sequence[str]) -> list[str]:
    """Return class names in label order, or those of one `.txt` file with a name a line."""
    values = [values] if isinstance(values, str) else list(values)
    names = _lines(values[0]) if len(values) == 1 and values[0].endswith(".txt") else values
    check_class_names(names)
    return names


def published_class_names(path: Path) -> list[str]:
    """Read a dataset's own list, a name a line in label order, and mark repeated names with `ALIKE`."""
    names = _lines(path)
    check_class_names(list(dict.fromkeys(names)))
    return [name + ALIKE * names[:number].count(name) for number, name in enumerate(names)]


def check_templates(templates: Sequence[str]) -> None:
    wrong = next((template for template in templates if "{}" not in template), None)
    if wrong is not None:
        raise ClipScratchError(f"template {wrong!r} has no {{}} for the class; write for example 'a photo of a {{}}.'")


def check_class_names(names: Sequence[str]) -> None:
    """Raise if a name is empty or given twice: two classes of one name tie in every image."""
    for number, (name, count) in enumerate(Counter(names).items(), 1):
        if not name.strip():
            raise ClipScratchError(f"label {number} of {len(names)} is empty; give each class a name.")
        if count > 1:
            raise ClipScratchError(f"label {name!r} is given twice; name each class once.")


def _lines(path) -> list[str]:
    """Return the lines of a text file without the empty ones at its end. Dropping others would shift the labels."""
    file = Path(path).expanduser()
    if not file.exists() or file.is_dir():
        raise ClipScratchError(f"{path}: there is no such file; check the path (seen from {Path.cwd()}).")
    lines = read_text(file).rstrip().splitlines()
    if not lines:
        raise ClipScratchError(f"{path}: is empty; write one entry a line.")
    return [line.strip() for line in lines]


def class_prompts(class_name: str, templates: Sequence[str]) -> list[str]:
    return [template.replace("{}", class_name) for template in templates]
