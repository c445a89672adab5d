"""Nothing goes in; tiny pictures and tar shards come out, for the tests of this folder."""

import io
import tarfile
from pathlib import Path

import pytest
from PIL import Image


@pytest.fixture(scope="session")
def encode():
    """(colour, format) -> the bytes of a small picture of one colour."""

    def encode_picture(colour="red", format="PNG", size=(6, 4), **options) -> bytes:
        file = io.BytesIO()
        Image.new("RGB", size, colour).save(file, format=format, **options)
        return file.getvalue()

    return encode_picture


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


@pytest.fixture(scope="session")
def write_class_set(write_shard, encode):
    """Writes a class set in CLIP_benchmark's layout: two shards of two samples a split, red is 0 and blue is 1."""

    def write(folder: Path, splits=("train", "test")) -> Path:
        for split in splits:
            for shard in range(2):
                members = {}
                for label, colour in enumerate(("red", "blue")):
                    key = f"s{2 * shard + label:07d}"
                    members |= {f"{key}.cls": str(label).encode(), f"{key}.webp": encode(colour, "WEBP", lossless=True)}
                write_shard(folder / split / f"{shard}.tar", members)
            (folder / split / "nshards.txt").write_text("2")
        (folder / "classnames.txt").write_text("red\ndeep blue\n")
        (folder / "zeroshot_classification_templates.txt").write_text("a {c} thing.\nall {c}.\n")
        return folder

    return write
