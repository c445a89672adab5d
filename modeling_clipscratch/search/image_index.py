"""Make, update and read the index of a folder of images: an embedding and a few facts for each.

An index is one file, which is replaced atomically: a reader finds the old or the new one, never a mixture.
"""

import json
import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from tqdm.auto import tqdm

from ..data.dataset import image_digest
from ..data.images.decode import BadImageError, decode_image, is_image_name, warn_of_unread
from ..data.images.preprocess import Preprocess, read_ahead
from ..evaluation.encode import encode_pixels
from ..utils.atomic_files import explaining_failures, write_whole
from ..utils.checksums import weights_fingerprint
from ..utils.errors import ClipScratchError
from ..utils.local_files import stamp, walk_files

logger = logging.getLogger(__name__)

INSIDE = ".clipscratch-index"  # folder of the index in the folder of images, by default; listings leave it out
FILE = "index.safetensors"
SAVE_EVERY = 512  # images, or a tenth of the index if that is more: what a kill may cost
# Settings of an image processor that change the pixels. A new setting of a later library does not spoil an index.
_SETTINGS = ("do_resize", "size", "resample", "do_center_crop", "crop_size", "image_mean", "image_std")


@dataclass(kw_only=True)
class ImageIndex:
    """The embeddings of a folder's images by one model."""

    folder: Path
    model: str  # its `model_fingerprint`
    model_name: str  # folder or Hub id
    images: dict[str, tuple[int, int, str]]  # path below the folder, with `/` -> bytes, time in ns, digest; sorted
    embeds: np.ndarray  # (N, P) float32 of unit length, in the order of `images`


@dataclass
class Changes:
    """What an update did, in numbers of images."""

    encoded: int = 0
    recognised: int = 0  # by their content: moved or copied
    unchanged: int = 0  # name, size and time
    gone: int = 0
    unreadable: int = 0

    def __str__(self):
        return ", ".join(f"{number:,} {what}" for what, number in vars(self).items())


def model_fingerprint(model, image_processor) -> str:
    """Return 32 hexadecimal digits that change with any weight and with how images are prepared."""
    values = image_processor.to_dict()
    settings = {name: values.get(name) for name in _SETTINGS}
    if not image_processor.do_normalize:
        settings["do_normalize"] = False
    return weights_fingerprint(model, settings)


def open_index(where: str | Path) -> ImageIndex:
    """Read an index.

    Args:
        where: Folder of images, or of its index.

    Raises:
        ClipScratchError: If there is no index, or it is damaged.

    >>> from modeling_clipscratch import load_model, update_index
    >>> model, processor = load_model("runs/digits")
    >>> index, changes = update_index("photos", model, processor, model_name="runs/digits")
    >>> open_index("photos").model_name
    'runs/digits'
    """
    path = next((path for path in (Path(where, INSIDE, FILE), Path(where, FILE)) if path.is_file()), None)
    if path is None:
        raise ClipScratchError(f"{where} holds no index; run: clipscratch index FOLDER --model DIR")
    try:
        arrays = load_file(path)
        table = json.loads(arrays["table"].tobytes())
        if path.parent.name == INSIDE:  # such an index moves with its folder
            table["folder"] = path.absolute().parents[1]
        images = {name: tuple(entry) for name, entry in table.pop("images").items()}
        return ImageIndex(**{**table, "folder": Path(table["folder"])}, images=images, embeds=arrays["embeds"])
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ClipScratchError(f"{path} is damaged ({error}); replace it with clipscratch index --rebuild.") from error


def save_index(index: ImageIndex, where: Path) -> None:
    """Write an index into its folder."""
    table = {**vars(index), "folder": str(index.folder)}
    embeds = table.pop("embeds")
    data = json.dumps(table).encode()  # in ASCII: a name may hold bytes that are not UTF-8
    arrays = {"table": np.frombuffer(data, np.uint8), "embeds": embeds}
    write_whole(where / FILE, lambda temporary: save_file(arrays, temporary))


def check_model(index: ImageIndex, model: str) -> None:
    """Raise `ClipScratchError` if an index was not made by the model with this `model_fingerprint`."""
    if index.model != model:
        raise ClipScratchError(
            f"the index of {index.folder} was made with another model ({index.model_name}, fingerprint "
            f"{index.model[:8]}; this one is {model[:8]}); give that model, or replace the index with "
            "clipscratch index --rebuild."
        )


def list_images(folder: Path) -> dict[str, tuple[int, int]]:
    """Return {path below the folder, with `/`: (bytes, time of the last change in ns)}, sorted.

    One warning counts the images of formats that are not read. No image, or a folder that cannot be read, raises.
    """
    if not folder.is_dir():
        raise ClipScratchError(f"{folder} is not a folder; give the one that holds the images.")
    paths = [folder / inside / file for inside, files in walk_files(folder) for file in files]
    warn_of_unread(map(str, paths))
    # Not a broken link, a pipe or a device.
    images = [path for path in paths if is_image_name(path.name) and path.is_file()]
    if not images:
        raise ClipScratchError(f"{folder} and the folders in it hold no image; give one with .jpg, .png, ... files.")
    return dict(sorted((path.relative_to(folder).as_posix(), stamp(path)) for path in images))


def update_index(
    folder: str | Path,
    model,
    processor,
    *,
    model_name: str,
    where: str | Path | None = None,
    rebuild: bool = False,
    batch_size: int = 64,
    progress: bool = False,
) -> tuple[ImageIndex, Changes]:
    """Make the index of a folder of images, or bring it up to date.

    An image whose name, size and time are those of the index counts as unchanged. Any other one is read, and encoded
    unless the index has the same content under whatever name. Unreadable images are left out, with a warning for each.
    The index is saved from time to time, so that a call after one that was stopped encodes little twice.

    Args:
        folder: The images, at any depth; folders that begin with a dot are left out.
        model, processor: As `load_model` returns them.
        model_name: Folder or Hub id of the model, for messages.
        where: Folder of the index; default: `.clipscratch-index` in the folder.
        rebuild: Encode all images again, and replace an existing index.
        batch_size: Images that are encoded at once.
        progress: Show a bar.

    Returns:
        The index and what was done.

    Raises:
        ClipScratchError: If no image is there or none can be read, or the index is damaged or of another model or
            folder.

    >>> from modeling_clipscratch import load_model
    >>> model, processor = load_model("runs/digits")
    >>> index, changes = update_index("photos", model, processor, model_name="runs/digits")
    >>> len(index.images), changes.encoded + changes.unchanged  # encoded once
    (4, 4)
    """
    folder = Path(folder).resolve()
    files = list_images(folder)
    where = folder / INSIDE if where is None else Path(where)
    with explaining_failures(where):  # before anything is encoded
        where.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=where).close()
    about = {"folder": folder, "model": model_fingerprint(model, processor.image_processor), "model_name": model_name}
    index, images, vectors = None, {}, {}
    if (where / FILE).is_file() and not rebuild:
        index = open_index(where)
        check_model(index, about["model"])
        if index.folder != folder and index.folder.is_dir():  # else the folder was moved
            raise ClipScratchError(
                f"the index {where} is that of {index.folder}, not of {folder}; give another --index, or --rebuild."
            )
        images = dict(index.images)
        vectors = {image[2]: embed for image, embed in zip(images.values(), index.embeds, strict=True)}
    before = dict(images)
    names = [name for name, current in files.items() if before.get(name, ())[:2] != current]
    changes, preprocess, unsaved = Changes(unchanged=len(files) - len(names)), Preprocess(processor.image_processor), 0

    def read(name):
        try:
            digest = image_digest(data := (folder / name).read_bytes())
            return name, digest, None if digest in vectors else preprocess(decode_image(data, name=str(folder / name)))
        except (BadImageError, OSError) as error:
            logger.warning("left out: %s", error)
            return name, None, None

    def save():
        embeds = np.stack([vectors[images[name][2]] for name in sorted(images)])
        new = ImageIndex(**about, images=dict(sorted(images.items())), embeds=embeds)
        save_index(new, where)
        return new

    with tqdm(total=len(names), desc="encoding images", unit="image", disable=not progress, leave=False) as bar:
        for batch in read_ahead(read, names, batch_size):
            # An image may come twice, or have been encoded since it was read.
            new = {digest: pixels for _, digest, pixels in batch if digest is not None and digest not in vectors}
            if new:
                encoded = encode_pixels(model, np.stack([*new.values()]), preprocess.mean, preprocess.std)
                if not encoded.isfinite().all():
                    raise ClipScratchError("the model gives NaN or infinity for an image; check its weights.")
                vectors.update(zip(new, encoded.numpy(), strict=True))
            for name, digest, _ in batch:
                if digest is None:
                    images.pop(name, None)
                    changes.unreadable += 1
                else:
                    images[name] = (*files[name], digest)
                    changes.recognised += 1
            changes.encoded += len(new)
            changes.recognised -= len(new)
            unsaved += len(new)
            if unsaved >= max(SAVE_EVERY, len(vectors) // 10):
                save()
                unsaved = 0
            bar.update(len(batch))
    images = {name: image for name, image in images.items() if name in files}
    if not images:
        raise ClipScratchError(f"{folder}: none of {len(files)} images can be read; see the warnings above.")
    if index is None or images != before or index.folder != folder:
        index = save()
    contents = {digest for *_, digest in images.values()}
    changes.gone = sum(name not in images and image[2] not in contents for name, image in before.items())
    return index, changes
