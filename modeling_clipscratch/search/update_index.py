"""A folder of pictures, a model and the index as it was go in; the index as the folder is now comes out.

Only what the index has not seen is encoded. It goes to disk in parts, so a run that is killed loses one part at most.
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
from ..hub.errors_clipscratch import ClipScratchError
from ..utils.atomic_files import explaining_failures
from .image_files import list_pictures, read_pictures
from .index_files import INSIDE, TABLE, Picture, PictureIndex, check_model, model_fingerprint, open_index, save_index
from .vectors import add_vectors, empty_vectors, number_of, numbers_in, read_vectors, write_vectors

logger = logging.getLogger(__name__)

PART_PICTURES = 512  # about half a minute of a small ViT at 224 pixels on one CPU core: what a kill may cost


@dataclass
class Changes:
    """What a call found: pictures encoded, known by their content (moved, copied, or encoded before a kill), known by
    name, size and time, gone, and the errors of those left out.

    >>> str(Changes(encoded=2, unchanged=7))
    '2 encoded, 0 known by their content, 7 unchanged, 0 gone, 0 unreadable'
    """

    encoded: int = 0
    recognised: int = 0
    unchanged: int = 0
    gone: int = 0
    errors: list[BadImageError] = field(default_factory=list)

    def __str__(self):
        """
        >>> print(Changes(encoded=2, unchanged=7))
        2 encoded, 0 known by their content, 7 unchanged, 0 gone, 0 unreadable
        """
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
) -> tuple[PictureIndex, Changes]:
    """Makes the index of a folder, or brings it up to date.

    A picture whose name, size and time are those of the index is taken as unchanged. Of any other the content is
    looked at, and encoded unless the index has it, under whatever name.

    Args:
        folder: the pictures, at any depth; folders that begin with a dot are passed over.
        model: as `load_model` gives it, with its processor.
        model_name: what people call it.
        where: folder of the index; without it, `.clipscratch-index` inside the folder.
        rebuild: begin anew, whatever index is there. Parts that a kill left behind are taken up all the same.
        on_bad_row: `skip`: leave unreadable pictures out, with a warning that names each; or `raise`.
        batch_size: pictures at once.
        progress: show a bar.
    Raises:
        BadImageError: at the first unreadable picture, if so chosen; what was encoded before it is kept.
        ClipScratchError: if there is no picture, none can be read, the index is damaged or of another model or
            folder, or another process is writing it.

    >>> from modeling_clipscratch.evaluation import load_model
    >>> model, processor = load_model("runs/digits")
    >>> index, changes = update_index("photos", model, processor, model_name="runs/digits")
    >>> len(index.pictures), changes.encoded + changes.unchanged  # encoded once, known from then on
    (4, 4)
    """
    folder = Path(folder).resolve()
    files = list_pictures(folder)
    where = folder / INSIDE if where is None else Path(where)
    fingerprint = model_fingerprint(model, processor.image_processor)
    preprocess = Preprocess(processor.image_processor)
    if where.exists() and not where.is_dir():
        raise ClipScratchError(f"{where} is a file; an index is a folder, give another --index.")
    with explaining_failures(where):
        where.mkdir(parents=True, exist_ok=True)
        (where / "lock").touch()
    try:
        with FileLock(where / "lock", timeout=0):
            if (where / TABLE).is_file() and not rebuild:
                index = _opened(where, folder, fingerprint)
            else:
                vectors = empty_vectors(_width(model, preprocess))
                of_model = {"model": fingerprint, "model_name": model_name}
                index = PictureIndex(folder=folder, pictures={}, vectors=vectors, **of_model)
            moved, index.folder = index.folder != folder, folder
            settings = {"on_bad_row": on_bad_row, "batch_size": batch_size, "progress": progress, "moved": moved}
            return index, _update(index, where, files, model, preprocess, **settings)
    except Timeout as error:
        raise ClipScratchError(f"{where} is being written by another process; wait until it ends.") from error


def _opened(where, folder, fingerprint):
    index = open_index(where)
    check_model(index, where, fingerprint)
    if index.folder != folder and index.folder.is_dir():  # a folder that was moved keeps its index
        raise ClipScratchError(
            f"the index {where} is that of {index.folder}, not of {folder}; give another --index, or replace it "
            "with --rebuild."
        )
    return index


def _width(model, preprocess):
    """P. Where a config names it differs from model to model; one picture tells it of any."""
    blank = np.zeros((1, *preprocess.image_size, 3), dtype=np.uint8)
    return encode_pixels(model, blank, preprocess.mean, preprocess.std).shape[1]


def _update(index, where, files, model, preprocess, *, on_bad_row, batch_size, progress, moved):
    parts = where / f"parts-{index.model}"
    resumed = _take_up(parts, index.vectors)
    known = set(numbers_in(index.vectors).tolist())
    before, changes = index.pictures, Changes()
    now = {name: before[name] for name, told in files.items() if name in before and before[name][:2] == told}
    changes.unchanged = len(now)
    names = [name for name in files if name not in now]
    batches = read_pictures(
        index.folder, names, preprocess, lambda digest: number_of(digest) in known, batch_size=batch_size
    )
    waiting = {}
    try:
        with tqdm(total=len(names), disable=not progress, unit="picture", leave=False) as bar:
            for batch in batches:
                for read in batch:
                    if read.error is None:
                        now[read.name] = Picture(*files[read.name], read.digest)
                    elif on_bad_row == "raise":
                        raise read.error
                    else:
                        changes.errors.append(read.error)
                        logger.warning("left out: %s", read.error)
                good = [read for read in batch if read.error is None]
                # A content may come twice in a batch.
                new = {number: read for read in good if (number := number_of(read.digest)) not in known}
                if new:
                    waiting |= _encoded(model, preprocess, new)
                    known |= new.keys()
                changes.encoded += len(new)
                changes.recognised += len(good) - len(new)
                if len(waiting) >= PART_PICTURES:
                    _publish(waiting, parts, index.vectors)
                bar.update(len(batch))
    finally:  # an error or Ctrl-C costs nothing; SIGKILL costs what is waiting
        _publish(waiting, parts, index.vectors)
    if not now:
        raise ClipScratchError(f"{index.folder}: none of {len(files)} pictures can be read; {changes.errors[0]}")
    contents = {picture.digest for picture in now.values()}
    changes.gone = sum(name not in now and picture.digest not in contents for name, picture in before.items())
    if now != before or resumed or moved:
        index.pictures = dict(sorted(now.items()))
        index.__dict__.pop("names_of", None)
        unused = np.setdiff1d(numbers_in(index.vectors), [number_of(digest) for digest in contents])
        if len(unused):
            index.vectors.remove_ids(unused)
        save_index(index, where)
    return changes


def _encoded(model, preprocess, new):
    """{number: Read} -> {number: (P,) float32}."""
    pixels = np.stack([read.pixels for read in new.values()])
    embeds = encode_pixels(model, pixels, preprocess.mean, preprocess.std, len(new)).numpy()
    for read, embed in zip(new.values(), embeds, strict=True):
        if not np.isfinite(embed).all():
            raise ClipScratchError(f"the model gives NaN or infinity for {read.name}; check its weights.")
    return dict(zip(new, embeds, strict=True))


def _publish(waiting, parts, vectors):
    """Brings {number: embedding} to disk and into the vectors, and empties it."""
    if not waiting:
        return
    numbers, embeds = np.fromiter(waiting, np.int64), np.stack([*waiting.values()])
    part = empty_vectors(embeds.shape[1])
    add_vectors(part, numbers, embeds)
    write_vectors(part, parts, "part")
    add_vectors(vectors, numbers, embeds)
    waiting.clear()


def _take_up(parts, vectors):
    """Adds what a killed run left in its parts; returns whether there was any."""
    found = sorted(parts.glob("part-*.faiss"))
    for path in found:
        try:
            part = read_vectors(path)
        except ValueError as error:
            logger.warning("%s It is left out; its pictures are encoded again.", error)
            continue
        add_vectors(vectors, numbers_in(part), part.reconstruct_batch(numbers_in(part)))
    return bool(found)
