"""A trained folder and, if you like, a folder of pictures go in; a static page that runs the model comes out.

It needs no network and no server, and may be opened as a file: what a page may not fetch from there (program, model,
tokenizer) travels as scripts, in base64 of gzip, in pieces.
"""

import base64
import gzip
import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ...data.images.decode import BadImageError
from ...data.images.preprocess import Preprocess
from ...data.templates import check_templates
from ...evaluation.encode import encode_pixels, longest_text
from ...evaluation.evaluate_dataset import log_scale
from ...evaluation.rank_labels import check_labels
from ...hub.errors_clipscratch import ClipScratchError
from ...search.image_files import list_pictures, read_pictures
from ...search.result_page import thumbnail
from ...utils.atomic_files import check_new_folder, write_new_folder
from ...utils.names import printable
from .export_onnx import load_for_export, write_towers
from .npm import Package, read_package

ASSETS = Path(__file__).parent / "browser"
PIECE = 3 * 2**20  # bytes of a script's content before base64
BATCH = 64  # pictures
PRECISION = "int8"  # 28 % of float32's size for MiniLM and ViT-tiny; what it loses: benchmarks/RESULTS.md
RESAMPLES = (1, 2, 3)  # those of Pillow's filters that pixels.js has

ONNXRUNTIME = Package(
    name="onnxruntime-web",
    version="1.30.0",
    sha512="q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ==",
)
TOKENIZERS = Package(
    name="@huggingface/tokenizers",
    version="0.2.0",
    sha512="LidMHe1FpcSYH4vcSjXooda34pC0M8m1gmDOv7SQi6Iv+ib1zX7J3sHBCC9/3FPCkn2k1b55FneVqMRxrr99pg==",
)


def write_page(
    folder: str | Path,
    page: str | Path,
    *,
    pictures: str | Path | None = None,
    labels: Sequence[str] = (),
    template: str = "{}",
) -> Path:
    """
    Args:
        folder: that training wrote.
        page: a new folder.
        pictures: to search on the page; small copies and their embeddings, made by PyTorch, go into the page's folder.
        labels: that the page begins with; none, or two and more.
        template: that the page begins with.
    Returns: the path of its `index.html`.
    Raises: ClipScratchError if there is no model, something is at `page`, the model prepares pictures or texts as
        the page cannot, npm cannot fetch the two packages, or a file is not true to the model.
        BadImageError: at the first picture that cannot be read.

    >>> write_page("runs/digits", "photos")  # looked at before anything is fetched
    Traceback (most recent call last):
        ...
    ClipScratchError: page=photos is there already; delete it, or choose another name.
    """
    names = check_page(page, pictures=pictures, labels=labels, template=template)
    model, processor = load_for_export(folder)
    settings = {
        "name": Path(folder).resolve().name,
        "logit_scale": log_scale(model),
        "max_length": longest_text(model, processor.tokenizer),
        "preprocess": preprocess_settings(processor.image_processor),
        "labels": list(labels),
        "template": template,
    }
    payload = read_programs()

    def fill(where):
        for asset in ASSETS.iterdir():
            shutil.copy(asset, where)
        with tempfile.TemporaryDirectory() as work:
            files = write_towers(model, processor, Path(work), [PRECISION])["files"][PRECISION]
            payload.update({side: Path(work, name).read_bytes() for side, name in files.items()})
            processor.tokenizer.save_pretrained(work)
            for name in ("tokenizer", "tokenizer_config"):
                payload[name] = Path(work, f"{name}.json").read_bytes()
        settings["payload"], settings["payload_bytes"] = _write_payload(payload, where / "payload")
        settings["pictures"] = _write_pictures(model, processor, pictures, names, where / "pictures")
        text = json.dumps(settings, indent=1)
        (where / "settings.js").write_text(f"const SETTINGS = {text};\n", encoding="utf-8")

    write_new_folder(page, fill)
    return Path(page) / "index.html"


def check_page(page: str | Path, *, pictures: str | Path | None, labels: Sequence[str], template: str) -> list[str]:
    """Looks at what `write_page` is given, before anything is loaded.

    Returns: the names of the pictures.
    Raises: ClipScratchError if it is not right.
    """
    check_new_folder("page", page)
    check_labels(labels, [template]) if labels else check_templates([template])
    return [] if pictures is None else list(list_pictures(Path(pictures)))


def preprocess_settings(image_processor) -> dict:
    """What `pixels.js` reads: `size` ([height, width] or the shorter edge), `crop`, `resample`, `mean`, `std`.

    Raises: ClipScratchError if the image processor does something that it has not.
    """
    size, crops = image_processor.size, bool(image_processor.do_center_crop)
    crop = [image_processor.crop_size.height, image_processor.crop_size.width] if crops else None
    preprocess = Preprocess(image_processor)
    target = [size.height, size.width] if size.shortest_edge is None else size.shortest_edge
    edges = target if isinstance(target, list) else [target, target]
    if not image_processor.do_resize or image_processor.resample not in RESAMPLES or size.longest_edge is not None:
        what = f"do_resize={image_processor.do_resize}, resample={image_processor.resample}, size={dict(size)}"
        raise ClipScratchError(
            f"the page cannot prepare pictures as this image processor does ({what}); it can resize with resample 1, "
            "2 or 3 (Lanczos, bilinear, bicubic) to a size or a shorter edge."
        )
    if crop is not None and (crop[0] > edges[0] or crop[1] > edges[1]):
        raise ClipScratchError(
            f"crop_size={crop} is larger than size={target}, and the page cannot pad; choose a smaller one."
        )
    return {
        "size": target,
        "crop": crop,
        "resample": int(image_processor.resample),
        "mean": preprocess.mean,
        "std": preprocess.std,
    }


def read_programs() -> dict[str, bytes]:
    """Name -> the programs that the page runs, from npm."""
    names = ["dist/ort.wasm.bundle.min.mjs", "dist/ort-wasm-simd-threaded.wasm"]
    onnxruntime, wasm = read_package(ONNXRUNTIME, names)
    tokenizers, licence = read_package(TOKENIZERS, ["dist/tokenizers.min.mjs", "LICENSE"])
    # What is under Apache-2.0 goes with its text; onnxruntime-web names its own, MIT, in its first lines.
    comment = f"/* {TOKENIZERS.name} {TOKENIZERS.version}\n{licence.decode()}*/\n".encode()
    return {"onnxruntime": onnxruntime, "wasm": wasm, "tokenizers": comment + tokenizers}


def _write_payload(payload: dict[str, bytes], where: Path) -> tuple[dict[str, int], int]:
    """Returns: (name -> number of pieces, bytes of all pieces)."""
    where.mkdir()
    pieces, size = {}, 0
    for name, content in payload.items():
        packed = gzip.compress(content, 9, mtime=0)
        starts = range(0, len(packed), PIECE)
        for place, start in enumerate(starts):
            text = base64.b64encode(packed[start : start + PIECE]).decode()
            (where / f"{name}-{place}.js").write_text(f'received("{name}", {place}, "{text}");\n', encoding="ascii")
        pieces[name], size = len(starts), size + len(packed)
    return pieces, size


def _write_pictures(model, processor, folder, names, where: Path) -> dict:
    """Writes small copies; returns names, and embeddings as base64 of float32 (N, P)."""
    where.mkdir()
    preprocess, embeds = Preprocess(processor.image_processor), []
    for batch in read_pictures(Path(folder or "."), names, preprocess, lambda digest: False, batch_size=BATCH):
        for read in batch:
            if read.error is not None:
                raise read.error
            small = thumbnail(Path(folder, read.name))
            if small is None:
                raise BadImageError(f"{read.name}: went away while it was read; call again.")
            small.save(where / f"{len(embeds)}.jpg", quality=82)
            embeds.append(encode_pixels(model, read.pixels[None].copy(), preprocess.mean, preprocess.std)[0].numpy())
    packed = np.stack(embeds).astype("<f4").tobytes() if embeds else b""
    return {
        "names": [printable(name) for name in names],
        "embeds": base64.b64encode(packed).decode(),
        "size": model.config.projection_dim,
    }
