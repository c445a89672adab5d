"""Read and write the index of a folder of images.

```
clipscratch-index.json       table of the images, fingerprint of the model, name of the file of vectors
vectors-<digest>.safetensors one embedding for each different content
parts-<fingerprint>/         embeddings of a run that is not finished
lock                         held by the process that writes
```

The table is written last, so a reader finds the old index or the new one, never a mixture.
"""

import json
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors.numpy import load, save

from ..data.dataset import image_digest
from ..utils.atomic_files import write_text, write_whole
from ..utils.checksums import weights_fingerprint
from ..utils.errors import ClipScratchError
from ..utils.names import first_line

INSIDE = ".clipscratch-index"  # folder of the index in the folder of images, by default; listings leave it out
TABLE = "clipscratch-index.json"
FORMAT = 2  # 1: vectors in a file of faiss
# Settings of an image processor that change the pixels. A new setting of a later library does not spoil an index.
_SETTINGS = ("do_resize", "size", "resample", "do_center_crop", "crop_size", "image_mean", "image_std")


class IndexedImage(NamedTuple):
    """A file of the index: bytes, time of the last change in ns, digest of the content."""

    size: int
    time: int
    digest: str


@dataclass(kw_only=True)
class ImageIndex:
    """The embeddings of a folder's images by one model.

    Args:
        folder: The folder of images.
        model: `model_fingerprint` of the model.
        model_name: Folder or Hub id of the model.
        images: {path below the folder, with `/`: `IndexedImage`}.
        digests: N different contents.
        embeds: (N, P) float32 of unit length, in the order of `digests`.
    """

    folder: Path
    model: str
    model_name: str
    images: dict[str, IndexedImage]
    digests: list[str]
    embeds: np.ndarray

    @cached_property
    def names_of(self) -> dict[str, list[str]]:
        """{digest: the images with this content}."""
        names = {}
        for name, image in self.images.items():
            names.setdefault(image.digest, []).append(name)
        return names


def model_fingerprint(model, image_processor) -> str:
    """Return 32 hexadecimal digits that change with any weight and with how images are prepared."""
    values = image_processor.to_dict()
    settings = {name: values.get(name) for name in _SETTINGS}
    if not image_processor.do_normalize:
        settings["do_normalize"] = False
    return weights_fingerprint(model, settings)


def find_index(place: str | Path) -> Path:
    """Return the folder of an index, given it or the folder of images that it lies in.

    Raises:
        ClipScratchError: If there is no index.
    """
    for where in (Path(place) / INSIDE, Path(place)):
        if (where / TABLE).is_file():
            return where
    raise ClipScratchError(f"{place} holds no finished index; run: clipscratch index FOLDER --model DIR")


def open_index(where: str | Path) -> ImageIndex:
    """Read an index and check that it is complete.

    Args:
        where: Folder of images, or of its index.

    Raises:
        ClipScratchError: If there is no index, or it is damaged or of another version.

    >>> from modeling_clipscratch import load_model, update_index
    >>> model, processor = load_model("runs/digits")
    >>> index, changes = update_index("photos", model, processor, model_name="runs/digits")
    >>> open_index("photos").model_name
    'runs/digits'
    """
    where = find_index(where)
    try:
        try:
            return _read_index(where)
        except FileNotFoundError:  # another process has replaced the vectors since the table was read
            return _read_index(where)
    except ClipScratchError as error:
        reason = str(error)
    except Exception as error:  # a damaged file raises anything
        reason = f"it is damaged: {type(error).__name__}, {first_line(error)}"
    raise ClipScratchError(f"the index {where} cannot be read ({reason}); replace it: {_rebuild('FOLDER', where)}")


def _read_index(where):
    table = json.loads((where / TABLE).read_text(encoding="utf-8"))
    if table["format"] != FORMAT:
        raise ClipScratchError(f"it has format {table['format']}, and this version reads {FORMAT}")
    digests, embeds = read_vectors(where / table["vectors"])
    index = ImageIndex(
        folder=(where / table["folder"]).resolve(),
        model=table["model"],
        model_name=table["model_name"],
        images={name: IndexedImage(*entry) for name, entry in table["images"].items()},
        digests=digests,
        embeds=embeds,
    )
    if index.names_of.keys() != set(digests):
        raise ClipScratchError("its table and its vectors are of different images")
    return index


def _rebuild(folder, where):
    elsewhere = "" if where.name == INSIDE else f" --index {where}"
    return f"clipscratch index {folder}{elsewhere} --model DIR --rebuild"


def check_model(index: ImageIndex, where: Path, model: str) -> None:
    """Raise `ClipScratchError` if an index was not made by the model with this `model_fingerprint`."""
    if index.model != model:
        raise ClipScratchError(
            f"the index {where} was made with another model ({index.model_name}, fingerprint {index.model[:8]}; this "
            f"one is {model[:8]}); give that model, or replace the index: {_rebuild(index.folder, where)}"
        )


def save_index(index: ImageIndex, where: Path) -> None:
    """Write the vectors, then the table that names them, then delete what neither needs."""
    vectors = write_vectors(index.digests, index.embeds, where, "vectors")
    # An index inside its folder moves with it.
    inside = where.resolve().is_relative_to(index.folder)
    folder = Path(*[".."] * len(where.resolve().relative_to(index.folder).parts)) if inside else index.folder
    table = {
        "format": FORMAT,
        "folder": folder.as_posix(),
        "model": index.model,
        "model_name": index.model_name,
        "vectors": vectors,
        "images": index.images,
    }
    write_text(where / TABLE, json.dumps(table))  # in ASCII: a name may hold bytes that are not UTF-8
    for left in [*where.glob("vectors-*"), *where.glob(".vectors-*"), *where.glob("parts-*")]:
        if left.is_dir():
            shutil.rmtree(left)
        elif left.name != vectors:
            left.unlink()


def write_vectors(digests: list[str], embeds: np.ndarray, folder: Path, stem: str) -> str:
    """Write N digests and (N, P) embeddings to `<stem>-<digest of the file>.safetensors`; return its name."""
    numbers = np.frombuffer(bytes.fromhex("".join(digests)), np.uint8).reshape(len(digests), -1)
    data = save({"digests": numbers, "embeds": embeds})
    name = f"{stem}-{image_digest(data)}.safetensors"
    write_whole(folder / name, lambda temporary: temporary.write_bytes(data))
    return name


def read_vectors(path: Path) -> tuple[list[str], np.ndarray]:
    """Read what `write_vectors` wrote; raise `ClipScratchError` if the content does not match the name."""
    data = path.read_bytes()
    if image_digest(data) != path.stem.rpartition("-")[2]:
        raise ClipScratchError(f"{path} is damaged")
    arrays = load(data)
    return [digest.tobytes().hex() for digest in arrays["digests"]], arrays["embeds"]
