"""Compute digests of files and weights, and write and check `SHA256SUMS`, which `sha256sum -c` reads as well."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

SUMS = "SHA256SUMS"


def sha256(*paths: Path) -> str:
    """Return the hexadecimal SHA-256 of a file, or of several one after the other."""
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            hashlib.file_digest(file, lambda: digest)
    return digest.hexdigest()


def weights_fingerprint(module: torch.nn.Module, settings: object) -> str:
    """Return 32 hexadecimal digits that change with any weight of a module and with the settings, fit for JSON."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
    return digest.hexdigest()


def write_sums(folder: Path, known: Mapping[str, str] | None = None) -> None:
    """Write the digests of all files in a folder, not of those in its sub-folders; `known` ones are not computed."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file() and path.name != SUMS)
    digests = {name: (known or {}).get(name) or sha256(folder / name) for name in names}
    (folder / SUMS).write_text("".join(f"{digest}  {name}\n" for name, digest in digests.items()), encoding="utf-8")


def read_sums(folder: Path) -> dict[str, str]:
    """Return {file name: digest}; `ValueError` if the file is damaged."""
    lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    return {name: digest for digest, name in (line.split("  ", 1) for line in lines)}


def find_damage(folder: Path, *, concerns: Callable[[str], bool] = lambda name: True) -> str | None:
    """Return what is wrong with the first file, of those it `concerns`, that differs from `SHA256SUMS`, or `None`."""
    try:
        digests = read_sums(folder)
    except (FileNotFoundError, ValueError):  # UnicodeDecodeError among them
        digests = {}
    if not digests:
        return f"its {SUMS} is missing, empty or damaged"
    for name in filter(concerns, digests):
        if not (folder / name).is_file():
            return f"{name}, listed in {SUMS}, is missing"
        if sha256(folder / name) != digests[name]:
            return f"{name} does not match {SUMS}"
    return None
