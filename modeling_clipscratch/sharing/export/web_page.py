"""Write a static page that runs a trained model in the browser.

The page needs no network and no server, and can be opened as a file. A page opened that way may not fetch files but
may load scripts, so program, model and tokenizer are scripts: pieces of gzip in base64.
"""

import base64
import gzip
import hashlib
import json
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import PIL

from ...data.images.preprocess import Preprocess
from ...data.templates import check_templates
from ...evaluation.encode import longest_text
from ...evaluation.evaluate_dataset import log_scale
from ...evaluation.rank_labels import check_labels
from ...search.demo_page import join_labels, own_prompts
from ...search.image_index import list_images, update_index
from ...search.result_page import thumbnail
from ...utils.atomic_files import check_new_folder, write_whole
from ...utils.errors import ClipScratchError
from ...utils.names import on_one_line, printable
from .export_onnx import load_for_export, write_towers

ASSETS = Path(__file__).parent / "browser"
_PIECE = 3 * 2**20  # bytes of a script's content before base64
_PRECISION = "int8"  # 28 % of the size of float32 for MiniLM and ViT-tiny; its losses: benchmarks/RESULTS.md


def write_page(
    folder: str | Path,
    page: str | Path,
    *,
    images: str | Path | None = None,
    labels: Sequence[str] | None = None,
    template: str | None = None,
) -> Path:
    """Write the page of a trained `folder` to the new folder `page`, and return the path of its `index.html`.

    The page gets thumbnails of `images`, and embeddings made by PyTorch. It starts with `labels` and `template`, by
    default those of the model.
    """
    check_page(page, images=images, labels=labels, template=template)
    model, processor = load_for_export(folder)
    own_labels, own_template = own_prompts(model.config)
    settings = {
        "name": Path(folder).resolve().name,
        "logit_scale": log_scale(model),
        "max_length": longest_text(model, processor.tokenizer),
        "unknown_token": processor.tokenizer.unk_token_id,
        "preprocess": preprocess_settings(processor.image_processor),
        "labels": join_labels(list(labels or own_labels)),
        "template": own_template if template is None else template,
        "images": {"names": [], "embeds": "", "size": 1},
    }
    payload = read_programs()

    def fill(new):
        for asset in ASSETS.iterdir():
            shutil.copy(asset, new)
        with tempfile.TemporaryDirectory() as work:
            files = write_towers(model, processor, Path(work), [_PRECISION])["files"][_PRECISION]
            payload.update({side: Path(work, name).read_bytes() for side, name in files.items()})
            processor.tokenizer.save_pretrained(work)
            for name in ("tokenizer", "tokenizer_config"):
                payload[name] = Path(work, f"{name}.json").read_bytes()
            if images is not None:
                index, _ = update_index(images, model, processor, model_name=str(folder), where=Path(work, "index"))
                (new / "images").mkdir()
                settings["images"] = _write_images(index, new / "images")
        settings["payload"] = _write_payload(payload, new / "payload")
        text = json.dumps(settings, indent=1)
        (new / "settings.js").write_text(f"const SETTINGS = {text};\n", encoding="utf-8")

    write_whole(page, fill, folder=True)
    return Path(page) / "index.html"


def check_page(page, *, images, labels, template) -> None:
    """Check the arguments of `write_page` before anything is loaded."""
    check_new_folder("page", page)
    templates = ["{}" if template is None else template]
    check_labels(labels, templates) if labels else check_templates(templates)
    if images is not None:
        list_images(Path(images))


def preprocess_settings(image_processor) -> dict:
    """Return the settings for `pixels.js`."""
    size, crop, preprocess = image_processor.size, None, Preprocess(image_processor)
    target = [size.height, size.width] if size.shortest_edge is None else size.shortest_edge
    if image_processor.do_center_crop:
        crop = [image_processor.crop_size.height, image_processor.crop_size.width]
    known = image_processor.do_resize and image_processor.resample in (1, 2, 3) and size.longest_edge is None
    if not known or crop is not None and (np.array(crop) > target).any():
        values = f"do_resize={image_processor.do_resize}, resample={image_processor.resample}, size={dict(size)}"
        raise ClipScratchError(
            f"the page cannot prepare images as this image processor does ({values}, crop={crop}); it can resize with "
            "resample 1, 2 or 3 (Lanczos, bilinear, bicubic) to a size or a shorter edge, and crop, but not pad."
        )
    return {
        "size": target,
        "crop": crop,
        "resample": int(image_processor.resample),
        "tall_first": int(PIL.__version__.split(".")[0]) >= 13,
        "mean": preprocess.mean,
        "std": preprocess.std,
    }


def read_programs() -> dict[str, bytes]:
    """Fetch {name: program} of what the page runs."""
    names = ["dist/ort.wasm.bundle.min.mjs", "dist/ort-wasm-simd-threaded.wasm"]
    onnxruntime, wasm = read_package(
        "onnxruntime-web@1.30.0",
        "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ==",
        names,
    )
    tokenizers, licence = read_package(
        "@huggingface/tokenizers@0.2.0",
        "LidMHe1FpcSYH4vcSjXooda34pC0M8m1gmDOv7SQi6Iv+ib1zX7J3sHBCC9/3FPCkn2k1b55FneVqMRxrr99pg==",
        ["dist/tokenizers.min.mjs", "LICENSE"],
    )
    # Apache-2.0 asks for its text; onnxruntime-web names its licence, MIT, in its first lines.
    comment = b"/* @huggingface/tokenizers\n" + licence + b"*/\n"
    return {"onnxruntime": onnxruntime, "wasm": wasm, "tokenizers": comment + tokenizers}


def read_package(package: str, sha512: str, members: Sequence[str]) -> list[bytes]:
    """Fetch files of a package, `name@version`, through npm, and run nothing of it."""
    npm = shutil.which("npm")
    if npm is None:
        raise ClipScratchError(f"the page needs {package}, which npm fetches, and npm is missing; install Node.js.")
    with tempfile.TemporaryDirectory() as folder:
        # In the temporary folder, since npm reads the package.json of the current one.
        command = [npm, "pack", package, "--silent", "--ignore-scripts"]
        ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if ended.returncode:
            raise ClipScratchError(f"npm cannot fetch {package} ({on_one_line(ended.stderr)}); check the connection.")
        (archive,) = Path(folder).glob("*.tgz")
        digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
        if digest != sha512:
            raise ClipScratchError(f"{package} has SHA-512 {digest} instead of {sha512}; check npm's registry.")
        with tarfile.open(archive) as opened:
            return [opened.extractfile(f"package/{member}").read() for member in members]


def _write_payload(payload, folder):
    """Write the pieces; return how many each name has."""
    folder.mkdir()
    pieces = {}
    for name, content in payload.items():
        packed = gzip.compress(content, 9, mtime=0)
        starts = range(0, len(packed), _PIECE)
        for place, start in enumerate(starts):
            text = base64.b64encode(packed[start : start + _PIECE]).decode()
            (folder / f"{name}-{place}.js").write_text(f'received("{name}", {place}, "{text}");\n', encoding="ascii")
        pieces[name] = len(starts)
    return pieces


def _write_images(index, folder):
    """Write thumbnails; return the images' names, and their embeddings as base64 of (N, P) float32."""
    for number, name in enumerate(index.images):
        thumbnail(index.folder / name).save(folder / f"{number}.jpg", quality=82)
    embeds = base64.b64encode(index.embeds.astype("<f4").tobytes()).decode()
    return {"names": [printable(name) for name in index.images], "embeds": embeds, "size": index.embeds.shape[1]}
