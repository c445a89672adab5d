"""Unit embeddings with their pictures' digests go in; files of them, and the exact nearest of a query, come out.

A vector belongs to the content of a picture, not to its name: its number is taken from the digest of the file's bytes.
"""

import hashlib
from pathlib import Path

import numpy as np
import torch

from ..evaluation.metrics.zero_shot import cosines
from ..hub.errors_clipscratch import ClipScratchError
from ..utils.atomic_files import write_whole

SPARE = 32  # neighbours asked for beyond the top, so that ties at its edge are seen without a second look


def faiss_library():
    """The module; imported late, since everything but the index works without it."""
    try:
        import faiss
    except ImportError as error:
        raise ClipScratchError(
            "an index of pictures needs faiss, which is not installed: pip install 'clipscratch[search]'"
        ) from error
    return faiss


def digest_of(data: bytes) -> str:
    """32 hexadecimal digits that name the content.

    >>> digest_of(b"")
    'cae66941d9efbd404e4d88758ea67670'
    """
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def number_of(digest: str) -> int:
    """The number that faiss knows a content by: 63 bits, in which a million pictures meet by chance once in 10 ** 7.

    >>> number_of("ffffffffffffffff0000000000000000") == 2**63 - 1
    True
    """
    return int(digest[:16], 16) >> 1


def empty_vectors(width: int):
    """A faiss index without a vector, exact inner products, vectors found and removed by their number."""
    faiss = faiss_library()
    return faiss.IndexIDMap2(faiss.IndexFlatIP(width))


def numbers_in(vectors) -> np.ndarray:
    """(N,) int64, in the order in which the vectors lie."""
    return faiss_library().vector_to_array(vectors.id_map)


def add_vectors(vectors, numbers: np.ndarray, embeds: np.ndarray) -> None:
    """Adds (n,) int64 numbers with (n, P) float32 embeddings; those that are there already are passed over."""
    new = ~np.isin(numbers, numbers_in(vectors))
    if new.any():
        vectors.add_with_ids(np.ascontiguousarray(embeds[new]), numbers[new])


def write_vectors(vectors, folder: Path, stem: str) -> str:
    """Writes `<stem>-<digest>.faiss`, whole or not at all; returns the name. What it holds can be checked by it."""
    data = faiss_library().serialize_index(vectors).tobytes()
    name = f"{stem}-{digest_of(data)}.faiss"
    write_whole(folder / name, lambda temporary: temporary.write_bytes(data))
    return name


def read_vectors(path: Path):
    """Raises: ClipScratchError if the file's content is not the one that its name says."""
    faiss = faiss_library()
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
        if found != path.stem.rpartition("-")[2]:
            raise ClipScratchError(f"{path} is damaged (its content is not what its name says).")
        file.seek(0)
        return faiss.read_index(faiss.PyCallbackIOReader(file.read))  # it takes no path that is not UTF-8


def nearest(vectors, query: torch.Tensor, top: int) -> tuple[np.ndarray, np.ndarray]:
    """The `top` nearest vectors, and all that tie with the last of them or are too close to call.

    faiss sums in float32, in an order of its own; so what it finds, and all within its error of the last, is scored
    once more by `cosines`, which gives equal vectors equal scores.

    Args:
        vectors: N vectors of unit length, P wide.
        query: (P,) unit length.
        top: how many are wanted, 1 or more.
    Returns: (numbers, scores): int64 and float32 cosines, `top` of them or more (or N), in no order.
    """
    if not torch.isfinite(query).all():
        raise ClipScratchError("the model gives NaN or infinity for the query; check its weights.")
    row = query.float().numpy()[None]
    scores, numbers = vectors.search(row, min(top + SPARE, vectors.ntotal))
    # The error of a sum of P products is at most P times half an epsilon of sum |x y|, which is 1 at most; of two sums.
    least = float(scores[0, min(top, vectors.ntotal) - 1]) - query.shape[0] * float(np.finfo(np.float32).eps)
    if scores[0, -1] >= least and len(numbers[0]) < vectors.ntotal:
        _, _, found = vectors.range_search(row, least)
        numbers = found[None]
    chosen = numbers[0]
    embeds = torch.from_numpy(vectors.reconstruct_batch(chosen))
    return chosen, cosines(query[None], embeds)[0].numpy()
