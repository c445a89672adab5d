"""Find and read the caption files of COCO, Karpathy's splits, Flickr8k and Flickr30k by their names."""

import json
import re
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import datasets

from ...utils.errors import ClipScratchError
from ...utils.local_files import Listing, list_files, read_text
from ..columns import DataOptions
from ..dataset import CAPTIONS_FEATURE
from ..splits import Source, Split, canonical_split, split_of_path
from .table_files import find_image_root

Captions = Iterable[tuple[str, str, list[str]]]  # split, path of the image, its captions


def caption_file_source(folder: Path, listing: Listing, name: str, options: DataOptions) -> Source | None:
    """Return the splits of the caption files in a folder or below it; `None` if there is none of a known form.

    The images lie beside the file, in one folder near it, or in `image_root`.
    """
    paths = [folder / file for file in list_files(listing) if file.lower().endswith((".json", ".txt", ".token"))]
    for pattern, read in _FORMS.items():
        splits: dict[str, dict[str, list[str]]] = {}
        used = []
        for path in paths:
            if re.fullmatch(pattern, path.name, re.IGNORECASE) and (rows := read(path)):
                used.append(path)
                for split, image, texts in rows:
                    splits.setdefault(split, {}).setdefault(image, []).extend(texts)
        if used:
            top = folder.parent if folder.name == "annotations" else folder  # one file of COCO was given
            origin = ", ".join(map(str, used))
            return {
                split: Split(partial(_open, i), origin, root=find_image_root(top, i, options, origin, split=split))
                for split, i in splits.items()
            }
    return None


def _open(images: dict[str, list[str]]) -> datasets.Dataset:
    features = {"image": datasets.Value("string"), "captions": CAPTIONS_FEATURE}
    columns = {"image": list(images), "captions": list(images.values())}
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


def _json_lists(path: Path, *names: str) -> list[list[dict]]:
    """Return lists of a JSON object; lists of an empty row if it is another file."""
    try:
        content = json.loads(read_text(path))
        return [[row for row in content[name] if isinstance(row, dict)] or [{}] for name in names]
    except (json.JSONDecodeError, KeyError, TypeError):
        return [[{}] for _ in names]


def _karpathy(path: Path) -> Captions | None:
    """Source: A. Karpathy, L. Fei-Fei, "Deep Visual-Semantic Alignments", CVPR 2015, which trains on `restval`."""
    (images,) = _json_lists(path, "images")
    if not {"filename", "split", "sentences"} <= set(images[0]):
        return None
    return [
        (
            "train" if image["split"] == "restval" else canonical_split(image["split"]),
            f"{image['filepath']}/{image['filename']}" if image.get("filepath") else image["filename"],
            [sentence["raw"] for sentence in image["sentences"]],
        )
        for image in images
    ]


def _coco(path: Path) -> Captions | None:
    """Source: cocodataset.org, "Data format", 5. Image Captioning."""
    images, captions = _json_lists(path, "images", "annotations")
    if not ({"id", "file_name"} <= set(images[0]) and {"image_id", "caption"} <= set(captions[0])):
        return None
    names, split = {image["id"]: image["file_name"] for image in images}, split_of_path(path.name) or "train"
    return [(split, names[row["image_id"]], [row["caption"]]) for row in captions]


def _tokens(path: Path) -> Captions:
    """Read lines of `name.jpg#0<TAB>caption`. The lists of names that come with Flickr8k give the splits."""
    splits = {
        name.strip(): canonical_split(match[1].lower())
        for other in sorted(path.parent.iterdir())
        if (match := re.fullmatch(r"flickr_?8k\.(train|dev|test)images\.txt", other.name, re.IGNORECASE))
        for name in read_text(other).splitlines()
    }
    lines = [line.rstrip() for line in read_text(path).splitlines() if line.strip()]
    rows = [re.fullmatch(r"(.+)#\d+\t(.*)", line) for line in lines]
    if None in rows:
        raise ClipScratchError(f"{path}: {lines[rows.index(None)]!r} is not of the form name.jpg#0<TAB>caption.")
    # Flickr8k has 91 images that are in no list.
    return [(splits.get(row[1], "train"), row[1], [row[2]]) for row in rows if not splits or row[1] in splits]


_FORMS: dict[str, Callable[[Path], Captions | None]] = {
    r"dataset_\w+\.json": _karpathy,
    r"captions_\w+\.json": _coco,
    r"(flickr\w*|results_\d+)\.token(\.txt)?": _tokens,
}
