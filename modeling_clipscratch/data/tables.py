"""Tables with a picture column go in (parquet, CSV, JSON lines, a `datasets.Dataset`); rows come out."""

import glob
import hashlib
import os
import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import datasets
import numpy as np
from PIL import Image

from .columns import Columns, find_columns, is_text, read_labels
from .local_files import backslash_hint, check_regular, file_of_cell, is_inside, same_files
from .pictures import decode_image
from .rows import DEFAULT_TEMPLATES, BadImageError, Rows
from .splits import Readers, canonical_split, is_split_name

_FORMATS = {".parquet": "parquet", ".csv": "csv", ".jsonl": "json", ".json": "json"}  # best first


def table_files(folder: Path) -> dict[str, list[Path]]:
    """The tables of a folder by split: named by their beginning (`train-0.parquet`, `data/test.csv`) or by their
    sub-folder (`val/rows.csv`); where none is, all tables in the folder itself are train.
    """
    found = [path for pattern in ("*", "*/*") for path in folder.glob(pattern) if _is_table_name(path)]
    for suffix in _FORMATS:
        splits: dict[str, list[Path]] = {}
        for path in sorted(path for path in found if path.suffix.lower() == suffix):
            split = _split_of(path.name) or (_split_of(path.parent.name) if path.parent != folder else None)
            if split:
                splits.setdefault(split, []).append(path)
        if splits:
            return splits
    for suffix in (".parquet", ".csv", ".jsonl"):  # a .json of another name is as likely to be settings
        if files := sorted(path for path in found if path.suffix.lower() == suffix and path.parent == folder):
            return {"train": files}
    return {}


def _is_table_name(path: Path) -> bool:
    return is_table(path) and not path.name.startswith(".")  # macOS leaves ._rows.csv beside rows.csv


def _split_of(file_or_folder: str) -> str | None:
    word = re.match(r"[A-Za-z]*", file_or_folder).group()
    return canonical_split(word) if is_split_name(word) else None


def is_table(path: Path) -> bool:
    """Whether the path ends like a table."""
    return path.suffix.lower() in _FORMATS


def file_readers(path: Path, *, name: str, columns: Columns, cache_dir: str | None = None) -> Readers:
    """One table file: the split that its name begins with, else train."""
    return table_readers({_split_of(path.name) or "train": [path]}, name, columns, cache_dir)


def table_readers(
    files: dict[str, list[Path]],
    name: str,
    columns: Columns,
    cache_dir: str | None = None,
    *,
    folder: Path | None = None,
) -> Readers:
    """One reader a split. Paths of pictures in a table are relative to the table.

    Args:
        folder: the dataset, where the tables were found in a folder; a `metadata.*` among them names only files in it.
    """
    for path in (path for paths in files.values() for path in paths):
        check_regular(path)
    opened = {split: partial(_open_files, paths, cache_dir) for split, paths in files.items()}
    return {
        split: partial(
            rows_from_table,
            opened,
            split=split,
            name=name,
            columns=columns,
            origin=", ".join(str(path) for path in paths[:3]) + (", ..." if len(paths) > 3 else ""),
            fingerprint=files_fingerprint(paths),
            root=paths[0].parent,
            inside=folder if any(path.stem.lower() == "metadata" for path in paths) else None,
        )
        for split, paths in files.items()
    }


def files_fingerprint(paths: Sequence[str | Path]) -> str:
    """Changes when a file is added, removed, renamed, resized or written again; whoever reads one tells if it is not
    there.
    """
    digest = hashlib.blake2b(digest_size=16)
    for path in paths:
        try:
            status = os.stat(path)
            stamp = f"{status.st_size}\0{status.st_mtime_ns}"
        except OSError:
            stamp = "missing"
        digest.update(f"{path}\0{stamp}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _open_files(paths: list[Path], cache_dir: str | None) -> datasets.Dataset:
    kind = _FORMATS[paths[0].suffix.lower()]
    # Without this, pandas reads a caption such as "None" or "NA" as an empty cell.
    options = {"keep_default_na": False} if kind == "csv" else {}
    files = [glob.escape(str(path)) for path in paths]
    try:
        with _no_progress():
            # Not load_dataset("csv", ...), which tells the Hub of the load and waits where there is no network.
            read = {"parquet": datasets.Dataset.from_parquet, "csv": datasets.Dataset.from_csv}
            return read.get(kind, datasets.Dataset.from_json)(files, cache_dir=cache_dir, **options)
    except Exception as error:  # every format's reader has errors of its own
        cause = error.__cause__ or error
        raise ValueError(
            f"{', '.join(map(str, paths))}: cannot be read as {kind} ({cause}); mend or remove it."
        ) from error


@contextmanager
def _no_progress() -> Iterator[None]:
    disabled = datasets.utils.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not disabled:
            datasets.enable_progress_bars()


def rows_from_table(
    tables: dict[str, Callable[[], datasets.Dataset]],
    *,
    split: str,
    name: str,
    columns: Columns,
    origin: str,
    fingerprint: str | None = None,
    root: Path | None = None,
    inside: Path | None = None,
) -> Rows:
    """The rows of one split of a table.

    Args:
        tables: what opens each split's table; others than `split` are opened only to number classes given as words.
        fingerprint: of the table's content; that of the `Dataset` where `None`.
        root: folder that the pictures' paths are relative to; where it is `None` the table must hold the pictures.
        inside: folder that the paths must not lead out of.

    Raises:
        ValueError: if a column is missing or ambiguous, naming the candidates and the option that chooses, or if paths
            lead to no picture or out of `inside`.
    """
    table = tables[split]()
    image, captions, label = find_columns(table.features, columns, origin=origin)
    fingerprint = "-".join([fingerprint or table._fingerprint, image, *captions, label or ""])
    if isinstance(table.features[image], datasets.Image):
        table = table.cast_column(image, datasets.Image(decode=False))
    pictures = table.select_columns([image])
    shared = {"name": name, "split": split, "origin": origin, "encoded": True}
    if by_path := is_text(table.features[image]):
        names = [cell or "" for cell in pictures[image][:]]
        paths = _paths(names, root, inside, f"{origin}: column {image!r}")
    one_caption = len(captions) == 1 and is_text(table.features[captions[0]])
    same = same_files(paths) if by_path else _digests(pictures, image) if one_caption else range(len(table))
    alike = _alike(same)
    row_sets = list(alike.values())
    first_rows = [rows[0] for rows in row_sets]
    if by_path:
        paths = [paths[row] for row in first_rows]
        keys = [_key(names[row], path, root) for row, path in zip(first_rows, paths, strict=True)]
        if paths and not any(map(os.path.exists, paths)):
            raise ValueError(
                f"{origin}: names the picture {paths[0]}, which is not there, nor is any other; paths are relative to "
                f"the table{backslash_hint(paths[0])}."
            )
        fingerprint += "-" + files_fingerprint(paths)
        shared["read_image"] = partial(read_path, paths)
    else:
        keys = [f"row-{row:08d}" for row in first_rows]
        shared["read_image"] = partial(_read_cell, pictures, image, first_rows, f"{name}, {split}", root, inside)
    shared.update(keys=keys, fingerprint=fingerprint)
    if captions:
        cells = [cell_texts(values) for values in zip(*(table[column][:] for column in captions), strict=True)]
        return Rows(kind="caption", captions=[sum((cells[r] for r in rows), []) for rows in row_sets], **shared)
    if len(row_sets) < len(table):
        twice = next(key for key, rows in zip(keys, row_sets, strict=True) if len(rows) > 1)
        raise ValueError(f"{origin}: {twice} is in several rows; class data has one row and one label a picture.")
    train = tables.get("train") if split != "train" else None
    labels, class_names = read_labels(table, label, names=columns.class_names, train=train, origin=origin)
    templates = list(columns.templates or DEFAULT_TEMPLATES)
    return Rows(kind="class", labels=labels[first_rows], class_names=class_names, templates=templates, **shared)


def _paths(cells: Sequence[str], root: Path | None, inside: Path | None, where: str) -> list[str]:
    """The files that a column names. Raises: ValueError without a `root`, or if a file lies outside `inside`."""
    if root is None:
        raise ValueError(
            f"{where} holds paths, not the images themselves, which are nowhere; name the column that holds them with "
            "--image_column, or give a local folder."
        )
    paths = [file_of_cell(root, cell) for cell in cells]
    for path in paths:
        _check_inside(path, inside, where)
    return paths


def _key(cell: str, path: str, root: Path) -> str:
    """The name of an image: its path from the table, in one spelling; outside the table's folder as it is written."""
    plain = cell == os.path.normpath(cell) and "\\" not in cell
    keeps = not is_inside(path, root) if os.path.isabs(cell) else plain
    return cell if keeps else os.path.relpath(path, root)


def _check_inside(path, inside, where):
    if inside is not None and not is_inside(path, inside):
        raise BadImageError(
            f"{where} names {path}, which lies outside {inside}; a metadata table names files of its own folder: copy "
            "the file there, or remove the row."
        )


def _read_cell(
    pictures,
    column: str,
    rows: Sequence[int],
    where: str,
    root: Path | None,
    inside: Path | None,
    index: int,
    decode=decode_image,
) -> Image.Image | np.ndarray:
    cell = pictures[rows[index]][column]
    where = f"{where}: row-{rows[index]:08d}"
    cell = {"bytes": cell} if isinstance(cell, bytes) else (cell or {})
    if cell.get("bytes"):
        return decode(cell["bytes"], name=where)
    if cell.get("path"):
        path = file_of_cell(root or Path(), cell["path"])
        _check_inside(path, inside, where)
        return decode(path, name=path)
    raise BadImageError(f"{where}: has no picture in column {column!r}; remove the row.")


def read_path(paths: Sequence[str], index: int, decode=decode_image) -> Image.Image | np.ndarray:
    """The picture at a place of a list."""
    return decode(paths[index], name=paths[index])


def _alike(values: Iterable[Hashable]) -> dict[Hashable, list[int]]:
    """The rows of each value, in the order of the first of them: sets with five captions a picture have five."""
    rows: dict[Hashable, list[int]] = {}
    for index, value in enumerate(values):
        rows.setdefault(value, []).append(index)
    return rows


def _digests(pictures: datasets.Dataset, column: str) -> Iterator[Hashable]:
    """Of each row's picture as it is stored, which a table with a caption a row repeats; a row without one is alone."""
    for batch in pictures.iter(batch_size=64):
        for cell in batch[column]:
            stored = cell.get("bytes") or (cell.get("path") or "").encode() if isinstance(cell, dict) else cell
            yield hashlib.blake2b(stored, digest_size=16).digest() if stored else object()


def cell_texts(values: tuple) -> list[str]:
    """The captions of a row, whose cells hold a text or a list of them each; empty ones are left out."""
    flat = [text for value in values for text in (value if isinstance(value, list) else [value])]
    return [str(text).strip() for text in flat if text is not None and str(text).strip()]
