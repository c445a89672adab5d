"""Find and read tables (parquet, CSV, JSON lines): in a folder, as `metadata.*` beside images, or by their path."""

import csv
import glob
import io
import itertools
import json
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache, partial
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet

from ...utils.errors import ClipScratchError
from ...utils.local_files import Listing, list_files, path_of_cell, read_text, stamp
from ...utils.names import first_line
from ..columns import DataOptions, find_columns, is_text, split_column
from ..images.decode import is_image_name
from ..splits import SPLIT_WORD, Source, Split, canonical_split, check_one_folder, group_by_split, split_of_path

logger = logging.getLogger(__name__)

_FORMATS = (".parquet", ".csv", ".tsv", ".jsonl", ".json")  # best first
_METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
_DELIMITERS = ",;\t|"
_DETECTION = ("instances_", "person_keypoints_")  # COCO's large files without captions
_HEAD = 20  # rows that show what a table holds


def is_table(path: str | Path) -> bool:
    return _suffix(path) in _FORMATS


def _suffix(path: str | Path) -> str:
    return Path(path).suffix.lower()


def table_file_source(path: Path, options: DataOptions) -> Source:
    """Return the splits of one table: those of its split column, else the one that its name means, else train."""
    return _source({split_of_path(path.name) or "train": [path]}, options)


def metadata_source(folder: Path, listing: Listing, name: str, options: DataOptions) -> Source:
    """Return the splits of the `metadata.*` tables beside images; none if there is no such table."""
    tables = {inside: [file for file in _METADATA if file in files] for inside, files in listing.items()}
    splits = group_by_split([inside for inside, files in tables.items() if files], name)
    paths = {split: [folder / inside / tables[inside][0] for inside in own] for split, own in splits.items()}
    source = _source(paths, options)
    if [*source] != ["train"] or "" not in splits["train"]:
        return source
    part = source["train"]  # one table, which may name images in split folders
    table = part.open()
    cells = table[find_columns(table.features, options, origin=part.origin)[0]][:]
    names = [split_of_path(os.path.dirname(str(cell).removeprefix(f"{folder}/"))) for cell in cells]
    return by_rows(source, {"train": names}) if any(names) else source


def table_source(folder: Path, listing: Listing, name: str, options: DataOptions) -> Source:
    """Return the splits of the tables of a folder; none if none of them is a table of images."""
    tables, chosen = sorted(_tables(listing)), []
    for suffix in _FORMATS:
        alike: dict[str, list[str]] = {}  # the files of one table, whatever their splits and numbers
        for path in (path for path in tables if _suffix(path) == suffix):
            alike.setdefault(re.sub(r"\d+", "0", SPLIT_WORD.sub("", path)), []).append(path)
        for paths in alike.values():
            chosen += paths if any(_holds_images(folder / path, options) for path in paths) else []
        if chosen:
            break
    named = options.image_column or options.caption_column or options.label_column or options.image_root
    if not chosen and (named or not any("/" in file and is_image_name(file) for file in list_files(listing))):
        chosen = [path for path in tables if _suffix(path) != ".json"]  # opening them reports what they lack
    splits = group_by_split(chosen, name)
    check_one_folder(itertools.chain(*splits.values()), name)
    if ignored := sorted({*tables} - {*chosen}):
        logger.warning("%s: %d tables are left out (%s, ...).", name, len(ignored), ignored[0])
    return _source({split: [folder / path for path in paths] for split, paths in splits.items()}, options)


def _tables(listing: Listing) -> Iterator[str]:
    """Yield the tables that may be data: not those beside an image or a tar of the same name."""
    for inside, files in listing.items():
        others = {os.path.splitext(file)[0] for file in files if is_image_name(file) or file.endswith(".tar")}
        for file in filter(is_table, files):
            stem = os.path.splitext(file)[0].removesuffix("_stats")  # of img2dataset
            if stem not in others and not stem.startswith((".", *_DETECTION)):
                yield f"{inside}/{file}" if inside else file


def _source(splits: Mapping[str, list[Path]], options: DataOptions) -> Source:
    source, names, column = {}, {}, None
    for split, paths in splits.items():
        head, folder = _head(paths[0]), Path(os.path.commonpath([path.parent for path in paths]))
        cells = _file_names(head) if all(path.parent == folder for path in paths) else []
        parquet, origin = _suffix(paths[0]) == ".parquet", ", ".join(map(str, paths[:3]))
        read = partial(_read_parquet, paths, options) if parquet else partial(_read_text_tables, paths, folder, options)
        source[split] = Split(
            read,
            origin + (", ..." if len(paths) > 3 else ""),
            stream=partial(read, datasets.IterableDataset) if parquet else None,
            root=_image_root(folder, cells, options, split),
        )
        if head and (column := split_column(head[0], options, origin)):
            names[split] = read()[column][:]
    return by_rows(source, names, column)


def _image_root(folder: Path, cells: Sequence[str], options: DataOptions, split: str | None = None) -> Path:
    """Return where paths of a table in `folder` start: `image_root`, the folder, or one in it that holds the images."""
    if options.image_root:
        root = Path(options.image_root).expanduser()
        if not root.is_dir():
            raise ClipScratchError(
                f"image_root={options.image_root!r} is not a folder; give the one that paths in {folder} start from."
            )
        return root

    def count(root):
        return sum(os.path.exists(path_of_cell(root, cell)) for cell in cells)

    if not cells or count(folder):
        return folder
    top = folder.parent if folder.name == "annotations" else folder  # of COCO
    near = {path: images for place in ("*/", "*/*/") for path in top.glob(place) if (images := count(path))}
    # Of folders with files of the same names, such as COCO's, the one that is named after the split.
    near = {path: images for path, images in near.items() if split and split_of_path(path.name) == split} or near
    best = [path for path, images in near.items() if images == max(near.values())]
    return best[0] if len(best) == 1 else folder


def _holds_images(path: Path, options: DataOptions) -> bool:
    """Return whether the first rows of a table hold images, or name some that exist."""
    try:
        rows = _head(path)
    except ClipScratchError:
        return False
    cells = [cell.get("bytes") if isinstance(cell, dict) else cell for row in rows for cell in row.values()]
    root = _image_root(path.parent, names := _file_names(rows), options)
    return any(isinstance(cell, bytes) for cell in cells) or any(os.path.isfile(path_of_cell(root, n)) for n in names)


def _file_names(rows: Iterable[dict]) -> list[str]:
    cells = [cell.get("path") if isinstance(cell, dict) else cell for row in rows for cell in row.values()]
    return [cell for cell in cells if isinstance(cell, str) and is_image_name(cell)]


@contextmanager
def naming_errors(path: Path) -> Iterator[None]:
    """Raise errors of readers, which each format has of its own, as one sentence."""
    try:
        yield
    except ClipScratchError:
        raise
    except Exception as error:
        raise ClipScratchError(
            f"{path}: cannot be read ({first_line(error.__cause__ or error)}); correct it (in CSV, texts with commas "
            "or quotes stand in double quotes), or fetch it again (git lfs pull, if it is a Git LFS pointer)."
        ) from error


def _head(path: Path) -> list[dict]:
    if _suffix(path) != ".parquet":
        return _read_text_table(path, *stamp(path)).slice(0, _HEAD).to_pylist()
    with naming_errors(path), pyarrow.parquet.ParquetFile(path) as file:
        return next(file.iter_batches(batch_size=_HEAD)).to_pylist() if file.metadata.num_rows else []


def _read_parquet(paths: Sequence[Path], options: DataOptions, kind=datasets.Dataset):
    files, origin = [glob.escape(str(path)) for path in paths], str(paths[0])
    with naming_errors(paths[0]):
        features = datasets.Features.from_arrow_schema(pyarrow.parquet.read_schema(paths[0]))
        image, captions, label = find_columns(features, options, origin=origin)
        needed = {image, *captions, label, split_column(features, options, origin), "key"}
        columns = [column for column in features if column in needed]  # the others may hold anything
        # Not load_dataset("parquet", ...), which asks the Hub first and waits where there is no network.
        return kind.from_parquet(files, columns=columns, cache_dir=options.cache_dir)


def _read_text_tables(paths: Sequence[Path], root: Path, options: DataOptions) -> datasets.Dataset:
    tables = [_read_text_table(path, *stamp(path)) for path in paths]
    with naming_errors(paths[0]):
        table = pa.concat_tables(tables, promote_options="permissive")
    features = datasets.Features.from_arrow_schema(table.schema)
    image, _, label = find_columns(features, options, origin=str(paths[0]))
    if label and is_text(features[label]):
        table = _replaced(table, label, _as_numbers(table[label].to_pylist()))
    if any(path.parent != root for path in paths) and is_text(features[image]):
        folders = [path.parent for path, part in zip(paths, tables, strict=True) for _ in range(len(part))]
        cells = zip(folders, table[image].to_pylist(), strict=True)
        table = _replaced(table, image, [cell and os.path.join(folder, cell) for folder, cell in cells])
    return datasets.Dataset(table)


def _replaced(table: pa.Table, name: str, cells) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, [cells])


def _as_numbers(cells: list[str | None]) -> pa.Array:
    """Return labels as numbers if all are numbers written as text. (`read_labels` raises for floats.)"""
    for kind in (pa.int64(), pa.float64()):
        with suppress(pa.ArrowInvalid):
            return pa.array([cell or None for cell in cells], pa.string()).cast(kind)
    return pa.array(cells)


@lru_cache(maxsize=4)  # which tables hold images is found out before they are read
def _read_text_table(path: Path, size: int, mtime_ns: int) -> pa.Table:
    with naming_errors(path):
        return (_read_json if _suffix(path).startswith(".json") else _read_csv)(read_text(path))


def _read_json(text: str) -> pa.Table:
    """Read JSON lines, lists, or caption files. (`Dataset.from_json` guesses types by parts of 10 MB.)"""
    rows, place = [], len(text) - len(text.lstrip())
    while place < len(text):
        value, place = json.JSONDecoder().raw_decode(text, place)
        rows += value if isinstance(value, list) else _caption_rows(value)
        place = re.compile(r"\s*").match(text, place).end()
    columns = {column: [row.get(column) for row in rows] for column in dict.fromkeys(itertools.chain(*rows))}
    for column, values in columns.items():
        try:
            columns[column] = pa.array(values)
        except (pa.ArrowException, OverflowError):  # of several types: as text
            columns[column] = [v if v is None or isinstance(v, str) else json.dumps(v) for v in values]
    return pa.table(columns)


def _caption_rows(value: dict) -> list[dict]:
    """Return the rows of a caption file of COCO or Karpathy; any other value is one row.

    Source: cocodataset.org, "Data format", 5. Image Captioning; A. Karpathy, L. Fei-Fei, "Deep Visual-Semantic
    Alignments", CVPR 2015, which trains on `restval`.
    """
    match value:
        case {"images": [{"id": _, "file_name": _}, *_] as images, "annotations": [{"caption": _}, *_] as captions}:
            names = {image["id"]: image["file_name"] for image in images}
            return [{"image": names[row["image_id"]], "caption": row["caption"]} for row in captions]
        case {"images": [{"filename": _, "sentences": _, "split": _}, *_] as images}:
            return [
                {
                    "image": os.path.join(image.get("filepath") or "", image["filename"]),
                    "captions": [sentence["raw"] for sentence in image["sentences"]],
                    "split": "train" if image["split"] == "restval" else image["split"],
                }
                for image in images
            ]
    return [value]


def _read_csv(text: str) -> pa.Table:
    """Read CSV with all columns as text. (`Dataset.from_csv` guesses types by parts, and fills short rows.)"""
    delimiter = max(_DELIMITERS, key=text.partition("\n")[0].count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows = []
    for cells in filter(None, reader):  # not an empty line
        rows.append([cell.strip() for cell in cells])
        if len(cells) != len(rows[0]):
            line = delimiter.join(cells)[:100]
            raise ValueError(f"line {reader.line_num}: expected {len(rows[0])} columns, got {len(cells)}: {line}")
    if not rows:
        raise ValueError("it is empty")
    if len({*rows[0]}) < len(rows[0]):
        raise ValueError(f"two columns have one name: {', '.join(rows[0])}")
    return pa.table({name: pa.array([row[n] for row in rows[1:]], pa.string()) for n, name in enumerate(rows[0])})


def by_rows(source: Source, names: Mapping[str, Sequence], column: str | None = None) -> Source:
    """Move rows to the splits that `names` (split of `source` -> a name a row, of `column` or of folders) has for them.

    A row without a name, or with another than that of its file, raises.
    """
    regrouped: Source = {}
    for split, part in source.items():
        splits = [canonical_split(str(name or "").strip()) for name in names.get(split, [split])]
        wrong = next((row for row, name in enumerate(splits) if not name or (len(source) > 1 and name != split)), None)
        if wrong is not None:
            raise ClipScratchError(
                f"{part.origin}: row {wrong + 1} has the split {splits[wrong]!r}, by its "
                f"{f'column {column!r}' if column else 'folder'}, among others or in a file of {split}; correct it, or "
                "ignore the column with --split_column none."
            )
        for name in dict.fromkeys(splits):
            rows = [row for row, other in enumerate(splits) if other == name]
            if len(rows) == len(splits):
                regrouped[name] = part
            else:
                origin = f"{part.origin}, {column or 'folder'} {name}"
                chosen = partial(lambda part, rows: part.open().select(rows), part, rows)
                regrouped[name] = part._replace(open=chosen, origin=origin, stream=None)
    return regrouped
