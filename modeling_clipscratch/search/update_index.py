"""Bring the index of a folder of images up to date.

Only what the index does not have is encoded. It is written in parts, so a run that is killed loses one part at most.
"""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from ..data.images.decode import BadImageError
from ..data.images.preprocess import Preprocess
from ..evaluation.encode import encode_pixels
from ..utils.atomic_files import explaining_failures
from ..utils.errors import ClipScratchError
from .image_files import list_images, read_images
from .index_files import (
    INSIDE,
    TABLE,
    ImageIndex,
    IndexedImage,
    check_model,
    model_fingerprint,
    open_index,
    read_vectors,
    save_index,
    write_vectors,
)

logger = logging.getLogger(__name__)

PART_IMAGES = 512  # about half a minute of a small ViT at 224 pixels on one CPU core: what a kill may cost


@dataclass
class Changes:
    """What an update did: images encoded, known by their content (moved, copied, or encoded before a kill), known by
    name, size and time, gone, and the errors of those left out.

    >>> print(Changes(encoded=2, unchanged=7))
    2 encoded, 0 known by their content, 7 unchanged, 0 gone, 0 unreadable
    """

    encoded: int = 0
    recognised: int = 0
    unchanged: int = 0
    gone: int = 0
    errors: list[BadImageError] = field(default_factory=list)

    def __str__(self):
        return (
            f"{self.encoded:,} encoded, {self.recognised:,} known by their content, {self.unchanged:,} unchanged, "
            f"{self.gone:,} gone, {len(self.errors):,} unreadable"
        )


def update_index(
    folder: str | Path,
    model,
    processor,
    *,
    model_name: str,
    where: str | Path | None = None,
    rebuild: bool = False,
    on_bad_row: Literal["skip", "raise"] = "skip",
    batch_size: int = 64,
    progress: bool = False,
) -> tuple[ImageIndex, Changes]:
    """Make the index of a folder of images, or bring it up to date.

    An image whose name, size and time are those of the index counts as unchanged. Any other one is read, and encoded
    unless the index has the same content under whatever name.

    Args:
        folder: The images, at any depth; folders that begin with a dot are left out.
        model, processor: As `load_model` returns them.
        model_name: Folder or Hub id of the model, for messages.
        where: Folder of the index; default: `.clipscratch-index` in the folder.
        rebuild: Replace an existing index. What a killed run has encoded with this model is used all the same.
        on_bad_row: `skip` leaves unreadable images out, with a warning for each; or `raise`.
        batch_size: Images that are encoded at once.
        progress: Show a bar.

    Returns:
        The index and what was done.

    Raises:
        BadImageError: At the first unreadable image, with `raise`; what was encoded before it is kept.
        ClipScratchError: If no image is there or none can be read, the index is damaged or of another model, version
            or folder, or another process is writing it.

    >>> from modeling_clipscratch import load_model
    >>> model, processor = load_model("runs/digits")
    >>> index, changes = update_index("photos", model, processor, model_name="runs/digits")
    >>> len(index.images), changes.encoded + changes.unchanged  # encoded once
    (4, 4)
    """
    folder = Path(folder).resolve()
    files = list_images(folder)
    where = folder / INSIDE if where is None else Path(where)
    if where.exists() and not where.is_dir():
        raise ClipScratchError(f"{where} is a file; an index is a folder, give another --index.")
    with explaining_failures(where):
        where.mkdir(parents=True, exist_ok=True)
        (where / "lock").touch()
    fingerprint = model_fingerprint(model, processor.image_processor)
    try:
        with FileLock(where / "lock", timeout=0):
            old = _open(where, folder, fingerprint) if (where / TABLE).is_file() and not rebuild else None
            parts = where / f"parts-{fingerprint}"
            settings = {"on_bad_row": on_bad_row, "batch_size": batch_size, "progress": progress}
            images, vectors, changes = _encode_new(folder, files, model, processor, old, parts, **settings)
            digests = sorted({image.digest for image in images.values()})
            if old and old.images == images and old.folder == folder and not parts.exists():
                return old, changes
            embeds = np.stack([vectors[digest] for digest in digests])
            index = ImageIndex(
                folder=folder, model=fingerprint, model_name=model_name, images=images, digests=digests, embeds=embeds
            )
            save_index(index, where)
            return index, changes
    except Timeout as error:
        raise ClipScratchError(f"{where} is being written by another process; wait until it ends.") from error


def _open(where, folder, fingerprint):
    index = open_index(where)
    check_model(index, where, fingerprint)
    if index.folder != folder and index.folder.is_dir():  # a folder that was moved keeps its index
        raise ClipScratchError(
            f"the index {where} is that of {index.folder}, not of {folder}; give another --index, or replace it "
            "with --rebuild."
        )
    return index


def _encode_new(folder, files, model, processor, old, parts, *, on_bad_row, batch_size, progress):
    """Return ({name: `IndexedImage`}, {digest: embedding}, `Changes`); write what is encoded to the folder `parts`."""
    before = old.images if old else {}
    vectors = dict(zip(old.digests, old.embeds, strict=True)) if old else {}
    vectors |= _read_parts(parts)
    images = {name: before[name] for name, stamp in files.items() if name in before and before[name][:2] == stamp}
    changes, pending = Changes(unchanged=len(images)), {}
    names = [name for name in files if name not in images]
    preprocess = Preprocess(processor.image_processor)
    batches = read_images(folder, names, preprocess, batch_size=batch_size, is_known=lambda digest: digest in vectors)

    def write_part():
        if pending:
            write_vectors(list(pending), np.stack([*pending.values()]), parts, "part")
            pending.clear()

    try:
        with tqdm(total=len(names), desc="encoding images", unit="image", disable=not progress, leave=False) as bar:
            for batch in batches:
                for read in batch:
                    if read.error is None:
                        images[read.name] = IndexedImage(*files[read.name], read.digest)
                    elif on_bad_row == "raise":
                        raise read.error
                    else:
                        changes.errors.append(read.error)
                        logger.warning("left out: %s", read.error)
                good = [read for read in batch if read.error is None]
                new = {read.digest: read for read in good if read.digest not in vectors}  # one content may come twice
                if new:
                    encoded = _encode(model, preprocess, new)
                    pending |= encoded
                    vectors |= encoded
                changes.encoded += len(new)
                changes.recognised += len(good) - len(new)
                if len(pending) >= PART_IMAGES:
                    write_part()
                bar.update(len(batch))
    finally:  # an error or Ctrl-C costs nothing, SIGKILL what is pending
        write_part()
    if not images:
        raise ClipScratchError(f"{folder}: none of {len(files)} images can be read; {changes.errors[0]}")
    contents = {image.digest for image in images.values()}
    changes.gone = sum(name not in images and image.digest not in contents for name, image in before.items())
    return dict(sorted(images.items())), vectors, changes


def _encode(model, preprocess, new):
    pixels = np.stack([read.pixels for read in new.values()])
    embeds = encode_pixels(model, pixels, preprocess.mean, preprocess.std, len(new)).numpy()
    for read, embed in zip(new.values(), embeds, strict=True):
        if not np.isfinite(embed).all():
            raise ClipScratchError(f"the model gives NaN or infinity for {read.name}; check its weights.")
    return dict(zip(new, embeds, strict=True))


def _read_parts(parts):
    """Return {digest: embedding} of a run that was killed."""
    vectors = {}
    for path in sorted(parts.glob("part-*.safetensors")):
        try:
            vectors |= dict(zip(*read_vectors(path), strict=True))
        except ClipScratchError as error:
            logger.warning("%s; its images are encoded again.", error)
    return vectors
