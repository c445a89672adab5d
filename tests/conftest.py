"""Make tiny random towers, models, a processor, a batch, images and tars, and find the shared real files."""

import copy
import io
import os
import shutil
import tarfile
import time
from pathlib import Path

import pytest
import torch
from huggingface_hub import close_session, constants, hf_api
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, VisionTextDualEncoderProcessor, ViTImageProcessorPil

from modeling_clipscratch import ClipScratchConfig, ClipScratchModel
from tests.loopback_hub import LoopbackHub
from tests.tiny_towers import tiny_config

REPOSITORY = Path(__file__).resolve().parents[1]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "photo", "of", "the", "red", "blue", "square", "circle"]


@pytest.fixture(scope="session")
def shared_folder() -> Path:
    """Real data that is not part of the project: `CLIPSCRATCH_SHARED`, or `shared` beside the checkout."""
    folder = Path(os.environ.get("CLIPSCRATCH_SHARED", REPOSITORY.parent / "shared")) / "data"
    if not folder.is_dir():
        pytest.skip("the shared real files are not here; set CLIPSCRATCH_SHARED to their folder to run this.")
    return folder


@pytest.fixture(scope="session")
def tower_config():
    """(model type, changes) -> config of a tower of width 16 that reads 12 tokens of `WORDS` or 8x8 pixels."""

    def make(model_type, **changes):
        text = model_type in ("distilbert", "bert")
        sizes = {"vocab_size": len(WORDS), "max_position_embeddings": 12} if text else {"image_size": 8}
        return tiny_config(model_type, **{**sizes, **changes})

    return make


@pytest.fixture(scope="session")
def make_model(tower_config):
    """Model types of the towers, seed and further settings -> a random model in `eval()`, projections 8 wide."""

    def make(text="distilbert", vision="vit", *, seed=0, text_changes=None, **settings):
        torch.manual_seed(seed)
        towers = {"text_config": tower_config(text, **(text_changes or {})), "vision_config": tower_config(vision)}
        return ClipScratchModel(ClipScratchConfig(**towers, **{"projection_dim": 8, **settings})).eval()

    return make


@pytest.fixture
def batch():
    """Four pairs: captions of 5, 3, 5 and 2 tokens, padded to 5; images of 8x8 pixels."""
    input_ids = torch.tensor([[2, 4, 8, 10, 3], [2, 9, 3, 0, 0], [2, 7, 9, 11, 3], [2, 3, 0, 0, 0]])
    pixels = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    return {"input_ids": input_ids, "attention_mask": (input_ids > 0).long(), "pixel_values": pixels}


def processor_of(words, length):
    """Processor whose tokenizer knows the words ([CLS] words [SEP]) and whose images are 8x8."""
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=length, **names)
    return VisionTextDualEncoderProcessor(ViTImageProcessorPil(size={"height": 8, "width": 8}), fast)


@pytest.fixture(scope="session")
def word_processor():
    """Processor of `WORDS`, which cuts texts at 12 tokens."""
    return processor_of(WORDS, 12)


@pytest.fixture
def parts(word_processor):
    """A tokenizer and an image processor of the tiny towers."""
    own = copy.deepcopy(word_processor)
    return {"tokenizer": own.tokenizer, "image_processor": own.image_processor}


@pytest.fixture(scope="session")
def encode():
    """(colour, format) -> the bytes of a small image of one colour."""

    def encode_image(colour="red", format="PNG", size=(6, 4), **options) -> bytes:
        file = io.BytesIO()
        Image.new("RGB", size, colour).save(file, format=format, **options)
        return file.getvalue()

    return encode_image


@pytest.fixture(scope="session")
def write_shard():
    """Writes a tar of {member: bytes}."""

    def write(path: Path, members: dict[str, bytes]) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, "w") as tar:
            for name, data in members.items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
        return path

    return write


@pytest.fixture
def write_files(tmp_path, write_shard, encode):
    """Writes {path: content} in the folder `set`; paths alone are red or, where their name says so, blue images.

    A tar without content holds one sample, which is called as the tar.
    """

    def write(files) -> Path:
        for name, content in (files if isinstance(files, dict) else dict.fromkeys(files)).items():
            path = tmp_path / "set" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if content is None and path.suffix == ".tar":
                key = name.replace("/", "_").replace(".", "_")
                write_shard(path, {f"{key}.png": encode(), f"{key}.txt": b"red"})
                continue
            content = encode("blue" if "blue" in name else "red") if content is None else content
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return tmp_path / "set"

    return write


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install playwright"
    )
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("there is no Chromium: apt-get install chromium")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A Hub on loopback that this process asks, with the token of its user `you` and a cache of its own."""
    with LoopbackHub() as loopback:
        for name, value in loopback.environment(tmp_path / "home").items():
            monkeypatch.setenv(name, value)
        # What huggingface_hub read from the environment when it was imported.
        monkeypatch.setattr(constants, "ENDPOINT", loopback.url)
        template = loopback.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "home" / "token"))
        monkeypatch.setattr(hf_api.api, "endpoint", loopback.url)
        monkeypatch.setattr("transformers.utils.hub._hf_api", None, raising=False)  # older ones keep none
        close_session()
        yield loopback
        close_session()


@pytest.fixture
def naps(monkeypatch):
    """Seconds that were slept, none of which passed."""
    slept = []
    monkeypatch.setattr(time, "sleep", slept.append)
    return slept
