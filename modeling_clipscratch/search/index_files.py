"""The folder of an index goes in; its table and its vectors, checked, come out; or the other way round, whole.

```
clipscratch-index.json  table of the pictures, the model's fingerprint, and the name of the file of vectors
vectors-<digest>.faiss  one vector a content
parts-<model>/          while an index is built: what was encoded so far
lock                    held by the one process that writes
```

The table is written last, so a reader finds the old index or the new one, never a mixture.
"""

import json
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from ..hub.errors_clipscratch import ClipScratchError
from ..utils.atomic_files import write_text
from ..utils.checksums import weights_fingerprint
from .vectors import number_of, read_vectors, write_vectors

INSIDE = ".clipscratch-index"  # where the index of a folder lies, if the user names no place; listings leave it out
TABLE = "clipscratch-index.json"
FORMAT = 1
# What of an image processor's settings changes the pixels; a new setting of a later library must not spoil an index.
_SETTINGS = ("do_resize", "size", "resample", "do_center_crop", "crop_size", "image_mean", "image_std")


class Picture(NamedTuple):
    """Bytes, time of the last change in ns, digest of the content."""

    size: int
    time: int
    digest: str


@dataclass(kw_only=True)
class PictureIndex:
    """
    Args:
        folder: the pictures' folder.
        model: `model_fingerprint` of what made the vectors.
        model_name: what the user called it.
        pictures: name below the folder -> `Picture`.
        vectors: of faiss, one for each different content.

    >>> from modeling_clipscratch.evaluation import load_model
    >>> from modeling_clipscratch.search import update_index
    >>> model, processor = load_model("runs/digits")
    >>> index, changes = update_index("photos", model, processor, model_name="runs/digits")
    >>> sorted(index.pictures), index.vectors.ntotal
    (['0.png', '1.png', '2.png', '3.png'], 4)
    """

    folder: Path
    model: str
    model_name: str
    pictures: dict[str, Picture]
    vectors: object

    @cached_property
    def names_of(self) -> dict[int, list[str]]:
        """Number of a content -> the pictures that have it."""
        names = {}
        for name, picture in self.pictures.items():
            names.setdefault(number_of(picture.digest), []).append(name)
        return names


def model_fingerprint(model, image_processor) -> str:
    """32 hexadecimal digits that change with any weight and with how pictures are prepared, not with the folder."""
    told = image_processor.to_dict()
    settings = {name: told.get(name) for name in _SETTINGS}
    if not image_processor.do_normalize:
        settings["do_normalize"] = False
    return weights_fingerprint(model, settings)


def find_index(place: str | Path) -> Path:
    """The folder of an index, given that folder or the folder of pictures that it lies in.

    Raises: ClipScratchError if there is none.

    >>> from modeling_clipscratch.evaluation import load_model
    >>> from modeling_clipscratch.search import update_index
    >>> model, processor = load_model("runs/digits")
    >>> index, changes = update_index("photos", model, processor, model_name="runs/digits")
    >>> find_index("photos").as_posix()
    'photos/.clipscratch-index'
    """
    place = Path(place)
    for where in (place / INSIDE, place):
        if (where / TABLE).is_file():
            return where
    raise ClipScratchError(
        f"{place} holds no finished index; make one, or finish it: clipscratch index FOLDER --model DIR"
    )


def open_index(where: Path) -> PictureIndex:
    """Reads an index and checks that it is whole.

    Raises: ClipScratchError if the index is damaged, incomplete or of another version's form.

    >>> from modeling_clipscratch.evaluation import load_model
    >>> from modeling_clipscratch.search import update_index
    >>> model, processor = load_model("runs/digits")
    >>> index, changes = update_index("photos", model, processor, model_name="runs/digits")
    >>> open_index(find_index("photos")).model_name
    'runs/digits'
    """
    try:
        try:
            return _read_index(where)
        except FileNotFoundError:  # a writer has replaced the vectors since the table was read
            return _read_index(where)
    except (ValueError, KeyError, TypeError, AttributeError, OSError, RuntimeError) as error:
        if "clipscratch[search]" in str(error):
            raise
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(".")
        raise ClipScratchError(
            f"{where} holds a damaged index ({reason}); make it anew: {_rebuild('FOLDER', where)}"
        ) from error


def _read_index(where):
    told = json.loads((where / TABLE).read_text(encoding="utf-8"))
    if told["format"] != FORMAT:
        raise ClipScratchError(f"its format is {told['format']}, this version reads {FORMAT}")
    index = PictureIndex(
        folder=(where / told["folder"]).resolve(),
        model=told["model"],
        model_name=told["model_name"],
        pictures={name: Picture(*entry) for name, entry in told["pictures"].items()},
        vectors=read_vectors(where / told["vectors"]),
    )
    if len(index.names_of) != index.vectors.ntotal:
        raise ClipScratchError(f"{len(index.names_of)} contents in the table, {index.vectors.ntotal} vectors")
    return index


def _rebuild(folder, where):
    elsewhere = "" if where.name == INSIDE else f" --index {where}"
    return f"clipscratch index {folder}{elsewhere} --model DIR --rebuild"


def check_model(index: PictureIndex, where: Path, fingerprint: str) -> None:
    """Raises: ClipScratchError if another model made the index."""
    if index.model != fingerprint:
        raise ClipScratchError(
            f"the index {where} was made with another model ({index.model_name}, fingerprint {index.model[:8]}; this "
            f"one is {fingerprint[:8]}); give that one, or make the index anew with: {_rebuild(index.folder, where)}"
        )


def save_index(index: PictureIndex, where: Path) -> None:
    """Writes the vectors, then the table that names them, then takes away what neither needs."""
    vectors = write_vectors(index.vectors, where, "vectors")
    # An index inside its folder moves with it.
    inside = where.resolve().is_relative_to(index.folder)
    folder = Path(*[".."] * len(where.resolve().relative_to(index.folder).parts)) if inside else index.folder
    table = {
        "format": FORMAT,
        "folder": folder.as_posix(),
        "model": index.model,
        "model_name": index.model_name,
        "vectors": vectors,
        "pictures": index.pictures,
    }
    # JSON in ASCII, since a name may hold bytes that are no UTF-8.
    write_text(where / TABLE, json.dumps(table))
    for left in [*where.glob("vectors-*.faiss"), *where.glob(".vectors-*.part")]:
        if left.name != vectors:
            left.unlink()
    for left in where.glob("parts-*"):
        shutil.rmtree(left)
