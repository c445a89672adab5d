"""Find and read tables (parquet, CSV, JSON lines): in a folder, as `metadata.*` beside images, or by their path."""

import csv
import functools
import glob
import io
import itertools
import json
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from ...utils.errors import ClipScratchError
from ...utils.local_files import Listing, is_lfs_pointer, list_files, path_of_cell, read_text
from ...utils.names import first_line
from ..columns import DataOptions, find_columns, is_text, split_column
from ..images.decode import is_image_name
from ..splits import SPLIT_WORD, Source, Split, canonical_split, is_split_name, split_of_path, split_words

logger = logging.getLogger(__name__)

_FORMATS = {".parquet": "parquet", ".csv": "csv", ".tsv": "csv", ".jsonl": "json", ".json": "json"}  # best first
_METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
_DELIMITERS = ",;\t|"
_HEAD = 20  # rows that show what a table holds


def is_table(path: str | Path) -> bool:
    """Return whether a path ends like a table."""
    return _suffix(path) in _FORMATS


def _suffix(path: str | Path) -> str:
    return Path(path).suffix.lower()


# Find tables


def table_file_source(path: Path, options: DataOptions) -> Source:
    """Return the splits of one table: those of its split column, else the one that its name means, else train."""
    return _source({split_of_path(path.name) or "train": [path]}, options)


def metadata_source(folder: Path, listing: Listing, name: str, options: DataOptions) -> Source:
    """Return the splits of the `metadata.*` tables beside images; none if there is no such table.

    Such a table names only files in `folder`, because people get it from others together with the images.
    """
    splits: dict[str | None, list[Path]] = {}
    for inside, files in listing.items():
        if table := next((file for file in _METADATA if file in files), None):
            splits.setdefault(split_of_path(inside), []).append(folder / inside / table)
    if len(splits) > 1 and None in splits:
        raise ClipScratchError(
            f"{splits[None][0]}: lies beside split folders; put one into each of them, with its own rows."
        )
    source = _source({split or "train": paths for split, paths in splits.items()}, options, inside=folder)
    tops = {inside.split("/")[0] for inside, files in listing.items() if any(map(is_image_name, files))}
    if [*splits] != [None] or len(source) > 1 or sum(map(is_split_name, tops)) < 2:
        return source
    part = source["train"]  # one table for the images in all split folders
    table = part.open()
    cells = table[find_columns(table.features, options, origin=part.origin)[0]][:]
    names = [canonical_split(str(cell).removeprefix("./").split("/")[0]) for cell in cells]
    for cell, split in zip(cells, names, strict=True):
        if not is_split_name(split):
            raise ClipScratchError(
                f"{part.origin}: lies beside split folders and names {cell}, which is in none of them; move the file, "
                "or put a metadata table into each split folder."
            )
    return _regrouped(part, names, "folder")


def table_source(folder: Path, listing: Listing, name: str, options: DataOptions) -> Source:
    """Return the splits of the tables of a folder; none if none of them is a table of images."""
    tables, chosen = list(_tables(listing)), []
    other_form = any("/" in file and is_image_name(file) for file in list_files(listing))
    other_form &= not (options.image_column or options.caption_column or options.label_column or options.image_root)
    for suffix in _FORMATS:
        alike: dict[str, list[str]] = {}  # the files of one table, whatever their splits and numbers
        for path in sorted(path for path in tables if _suffix(path) == suffix):
            alike.setdefault(re.sub(r"\d+", "0", SPLIT_WORD.sub("", path)), []).append(path)
        chosen = [path for paths in alike.values() if _hold_images(folder, paths, options) for path in paths]
        if not chosen and not other_form:  # opening it reports what it lacks
            chosen = [path for paths in alike.values() for path in paths if suffix != ".json" or split_words(path)]
        if chosen:
            break
    splits: dict[str | None, list[str]] = {}
    for path in sorted(chosen):
        splits.setdefault(split_of_path(path), []).append(path)
    if len(splits) > 1:
        splits.pop(None, None)
    splits = {split or "train": _of_one_folder(name, paths) for split, paths in splits.items()}
    if ignored := sorted({*tables}.difference(*splits.values())):
        logger.warning("%s: %d tables are left out (%s, ...).", name, len(ignored), ignored[0])
    return _source({split: [folder / path for path in paths] for split, paths in splits.items()}, options)


def _tables(listing: Listing) -> Iterator[str]:
    """Yield the tables that may be data: not those beside an image or a tar of the same name."""
    for inside, files in listing.items():
        if tables := [file for file in files if file.lower().endswith((*_FORMATS,)) and not file.startswith(".")]:
            others = {os.path.splitext(file)[0] for file in files if is_image_name(file) or file.endswith(".tar")}
            others |= {f"{stem}_stats" for stem in others}  # of img2dataset
            for file in tables:
                if os.path.splitext(file)[0] not in others:
                    yield f"{inside}/{file}" if inside else file


def _of_one_folder(name: str, paths: list[str]) -> list[str]:
    """Return the tables of a split. Raise if several folders hold them, which may be several configurations."""
    folders: dict[str, list[str]] = {}
    for path in paths:
        top = path.split("/")[0] if "/" in path else ""
        folders.setdefault("" if split_words(top) or top.isdigit() else top, []).append(path)
    if len(folders) > 1 and "" not in folders:
        raise ClipScratchError(
            f"{name}: the sub-folders {', '.join(map(repr, folders))} hold tables of their own, which may be several "
            f"configurations of one dataset; choose one with --dataset_config {next(iter(folders))}."
        )
    return folders.get("", paths)


def _source(splits: Mapping[str, list[Path]], options: DataOptions, *, inside: Path | None = None) -> Source:
    source, split_columns = {}, {}
    for split, paths in splits.items():
        head = _head(paths[0])
        folder = Path(os.path.commonpath([path.parent for path in paths]))
        cells = _file_names(head) if all(path.parent == folder for path in paths) else ()
        read = functools.cache(partial(_read_tables, paths, folder, options))
        source[split] = Split(
            read,
            ", ".join(map(str, paths[:3])) + (", ..." if len(paths) > 3 else ""),
            stream=partial(_stream, paths, options) if _suffix(paths[0]) == ".parquet" else None,
            root=find_image_root(folder, cells, options, paths[0], split=split),
            inside=None if options.image_root else inside,
        )
        if head and (column := split_column(head[0], options, source[split].origin)):
            alone = partial(_read_parquet, paths, options, [column])
            split_columns[split] = alone if source[split].stream else read
    return by_split_column(source, options, split_columns) if split_columns else source


def find_image_root(
    folder: Path, cells: Iterable[str], options: DataOptions, where: str | Path, *, split: str = "", quiet: bool = False
) -> Path:
    """Return the folder that paths in a table start from: `image_root`, the table's own, or one in it that holds them.

    Args:
        folder: The folder of the table.
        cells: Some of the paths, which `where` names.
        split: Split of the rows.
        quiet: Do not log that another folder is taken.
    """
    if options.image_root:
        root = Path(options.image_root).expanduser()
        if not root.is_dir():
            raise ClipScratchError(
                f"image_root={options.image_root!r} is not a folder; give the one that paths in {where} start from."
            )
        return root
    cells = list(itertools.islice(cells, _HEAD))

    def count(root):
        return sum(os.path.exists(path_of_cell(root, cell)) for cell in cells)

    if not cells or count(folder):
        return folder
    counts = {path: count(path) for pattern in ("*/", "*/*/") for path in sorted(folder.glob(pattern))}
    # Of folders with files of the same names, such as COCO's, the one that is named after the split.
    own = {path: number for path, number in counts.items() if split and number and split_of_path(path.name) == split}
    best = [path for path, number in (own or counts).items() if number and number == max((own or counts).values())]
    if len(best) != 1:
        return folder
    if not quiet:
        logger.info("%s names images in %s.", where, best[0])
    return best[0]


def _hold_images(folder: Path, paths: Iterable[str], options: DataOptions) -> bool:
    """Return whether the first rows of alike tables hold images, or name some that exist."""
    first = {re.sub(r"\d+", "0", path): folder / path for path in paths}
    for path in first.values():  # a test split may be empty, but not all shards
        head = _head(path)
        cells = [cell.get("bytes") if isinstance(cell, dict) else cell for row in head for cell in row.values()]
        names = _file_names(head)
        root = find_image_root(path.parent, names, options, path, quiet=True)
        if any(isinstance(cell, bytes) for cell in cells) or any(os.path.isfile(path_of_cell(root, n)) for n in names):
            return True
    return False


def _file_names(rows: Iterable[dict]) -> list[str]:
    cells = [cell.get("path") if isinstance(cell, dict) else cell for row in rows for cell in row.values()]
    return [cell for cell in cells if isinstance(cell, str) and is_image_name(cell)]


# Read tables


def _head(path: Path) -> list[dict]:
    """Return the first rows; none if they cannot be read, which is reported when the table is opened."""
    try:
        if _suffix(path) == ".parquet":
            with pyarrow.parquet.ParquetFile(path) as file:
                return next(file.iter_batches(batch_size=_HEAD)).to_pylist()
        if _FORMATS[_suffix(path)] == "json":
            return [row for row in itertools.islice(_json_rows(path), _HEAD) if isinstance(row, dict)]
        names, rows = _csv_rows(path, check=False)
        return [dict(zip(names, row, strict=False)) for row in itertools.islice(rows, _HEAD)]
    except Exception:  # the reader of each format has errors of its own
        return []


def _read_tables(paths: Sequence[Path], root: Path, options: DataOptions) -> datasets.Dataset:
    """Read several files as one table of the columns that are needed, with paths of images relative to `root`."""
    kind, origin = _FORMATS[_suffix(paths[0])], str(paths[0])
    if kind == "parquet":
        features = _schema(paths[0])
        columns = _needed(features, options, origin)
        folders = itertools.groupby(paths, key=lambda path: path.parent)
        parts = [(folder, _read_parquet([*files], options, columns)) for folder, files in folders]
    else:
        parts = [(path.parent, (_read_csv if kind == "csv" else _read_json)(path)) for path in paths]
        features = datasets.Features()  # a column may be empty, and so without a type, in one file
        for _, part in parts:
            features |= {c: f for c, f in part.features.items() if getattr(features.get(c), "dtype", "null") == "null"}
        columns = _needed(features, options, origin)
    image, _, label = find_columns(features, options, origin=origin)
    try:
        chosen = [(part.select_columns(columns), os.path.relpath(folder, root)) for folder, part in parts]
        table = datasets.concatenate_datasets([_with_paths(part, image, inside) for part, inside in chosen])
    except ValueError as error:
        raise ClipScratchError(
            f"{origin}: the other files have other columns ({first_line(error)}); correct them."
        ) from error
    return _with_number_labels(table, label) if kind == "csv" and label else table


def _needed(features: datasets.Features, options: DataOptions, origin: str) -> list[str]:
    """Return the columns to read. The others may hold anything."""
    image, captions, label = find_columns(features, options, origin=origin)
    needed = {image, *captions, label, split_column(features, options, origin), "key"}
    return [column for column in features if column in needed]


def _with_paths(table: datasets.Dataset, image: str, inside: str) -> datasets.Dataset:
    """Return a table whose images, if they are paths and not bytes, are text that starts from the folder above."""
    cells = table.data.column(image)
    if isinstance(table.features[image], datasets.Image) and pc.struct_field(cells, "bytes").null_count == len(cells):
        cells = pc.struct_field(cells, "path")
    elif not is_text(table.features[image]) or inside == ".":
        return table
    paths = [cell and (os.path.normpath(f"{inside}/{cell}") if inside != "." else cell) for cell in cells.to_pylist()]
    return table.remove_columns(image).add_column(image, paths, feature=datasets.Value("string"))


def _with_number_labels(table: datasets.Dataset, label: str) -> datasets.Dataset:
    """Return a table of text whose labels are numbers if all are. (`read_labels` raises an error for floats.)"""
    cells = [cell or None for cell in table[label][:]]
    for parse, kind, pattern in ((int, "int64", r"-?\d{1,18}"), (float, "float64", r"-?\d*\.?\d+")):
        if any(cells) and all(re.fullmatch(pattern, cell) for cell in cells if cell):
            numbers = [cell and parse(cell) for cell in cells]
            return table.remove_columns(label).add_column(label, numbers, feature=datasets.Value(kind))
    return table


def _schema(path: Path) -> datasets.Features:
    with _naming_errors(path):
        return datasets.Features.from_arrow_schema(pyarrow.parquet.read_schema(path))


def _read_parquet(paths: Sequence[Path], options: DataOptions, columns: Sequence[str]) -> datasets.Dataset:
    files = [glob.escape(str(path)) for path in paths]
    with _naming_errors(paths[0]):
        # Not load_dataset("parquet", ...), which asks the Hub first and waits where there is no network.
        return datasets.Dataset.from_parquet(files, columns=columns, cache_dir=options.cache_dir)


def _stream(paths: Sequence[Path], options: DataOptions) -> datasets.IterableDataset:
    columns = _needed(_schema(paths[0]), options, str(paths[0]))
    files = [glob.escape(str(path)) for path in paths]
    return datasets.IterableDataset.from_parquet(files, columns=columns).decode(False)


@contextmanager
def _naming_errors(path: Path) -> Iterator[None]:
    """Raise errors of `datasets` as one sentence, without its bars and log lines."""
    disabled, level = datasets.utils.are_progress_bars_disabled(), datasets.utils.logging.get_verbosity()
    datasets.disable_progress_bars()
    datasets.utils.logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    except Exception as error:  # of many kinds
        with open(path, "rb") as file:
            pointer = is_lfs_pointer(file.read(100))
        cause = "it is a Git LFS pointer: git lfs pull" if pointer else first_line(error.__cause__ or error)
        raise ClipScratchError(f"{path}: cannot be read as parquet ({cause}); correct or remove it.") from error
    finally:
        datasets.utils.logging.set_verbosity(level)
        if not disabled:
            datasets.enable_progress_bars()


def _read_json(path: Path) -> datasets.Dataset:
    """Read JSON. (`Dataset.from_json` guesses types by parts of 10 MB, and its errors name no line.)"""
    rows = list(_json_rows(path))
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise ClipScratchError(f"{path}: its rows are not objects in braces; write one row a line.")
    columns = dict.fromkeys(itertools.chain.from_iterable(rows))
    return datasets.Dataset(pa.table({column: _array([row.get(column) for row in rows]) for column in columns}))


def _json_rows(path: Path) -> Iterator:
    text = read_text(path)
    lines = [text] if text.lstrip().startswith("[") else text.split("\n")  # `splitlines` breaks texts at U+2028
    for number, line in enumerate(lines, start=1):
        try:
            value = json.loads(line) if line.strip() else []
        except (json.JSONDecodeError, RecursionError) as error:
            raise ClipScratchError(
                f"{path}, line {number}: is not JSON ({first_line(error)}); correct or remove it."
            ) from error
        yield from value if isinstance(value, list) else [value]


def _array(values: list) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowException, OverflowError):  # of several types: as text
        return pa.array([value if value is None or isinstance(value, str) else json.dumps(value) for value in values])


def _read_csv(path: Path) -> datasets.Dataset:
    """Read CSV with all columns as text.

    `Dataset.from_csv` guesses types by parts of 10,000 rows, takes a row with one cell too many for one with an index,
    and fills short rows.
    """
    names, rows = _csv_rows(path)
    schema = pa.schema([(name, pa.string()) for name in names])
    parts = [schema.empty_table()]
    while chunk := list(itertools.islice(rows, 10_000)):  # as Python objects a row takes 800 bytes
        parts.append(pa.table([pa.array(column, pa.string()) for column in zip(*chunk, strict=True)], schema=schema))
    return datasets.Dataset(pa.concat_tables(parts))


def _csv_rows(path: Path, *, check: bool = True) -> tuple[list[str], Iterator[list[str]]]:
    """Return the header and the rows of a CSV file. `check` raises at a row without the cells of the header."""
    csv.field_size_limit((1 << 31) - 1)
    text = read_text(path)
    header = text.partition("\n")[0]
    delimiter = max(_DELIMITERS, key=header.count)
    names = [name.strip() for name in next(csv.reader([header], delimiter=delimiter), [])]
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None or not any(names):
        problem = f"two columns are called {repeated!r}" if repeated else "its first line is empty, without columns"
        raise ClipScratchError(f"{path}: {problem}; correct the file.")

    def rows():
        # Only `strict` notices a quote that is not closed, which swallows the rows behind it.
        strict, line = check and text.count('"') % 2 == 1, 2
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=strict)
        try:
            next(reader)
            for row in reader:
                if check and row and len(row) != len(names):
                    raise ClipScratchError(
                        f"{path}, line {line}: {len(row)} cells where the header has {len(names)} ({', '.join(names)})"
                        f"; put a text that holds {delimiter!r} in double quotes, or correct the row."
                    )
                if row:
                    yield list(map(str.strip, row))
                line = reader.line_num + 1
        except csv.Error as error:
            raise ClipScratchError(
                f"{path}, line {line}: {error}; a quote is not closed, or not written twice."
            ) from error

    return names, rows()


# Splits of rows


def by_split_column(
    source: Source, options: DataOptions, columns: Mapping[str, Callable[[], datasets.Dataset]] | None = None
) -> Source:
    """Move the rows of tables to the splits that a column names.

    Args:
        source: Splits as the names of files give them. A row that names none, or another than its file, raises.
        columns: Split -> function that opens its split column alone, where that costs less than its table.
    """
    if options.split_column == "none":
        return source
    regrouped: Source = {}
    for split, part in source.items():
        table = (columns or {}).get(split, part.open)()
        column = split_column(table.column_names, options, part.origin)
        names = ["" if value is None else str(value).strip() for value in table[column][:]] if column else [split]
        if "" in names:
            raise ClipScratchError(
                f"{part.origin}: row {names.index('') + 1} names no split in column {column!r}; correct it, or ignore "
                "the column with --split_column none."
            )
        names = [*map(canonical_split, names)]
        other = next((name for name in names if name != split), None)
        if other is not None and len(source) > 1:
            raise ClipScratchError(
                f"{part.origin}: belongs to {split}, and its column {column!r} says {other}; correct one of them, or "
                "ignore the column with --split_column none."
            )
        regrouped |= {split: part} if other is None else _regrouped(part, names, column)
    return regrouped


def _regrouped(part: Split, names: Sequence[str], column: str) -> Source:
    """Return the rows of a split by the split that is named for each."""
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        rows.setdefault(name, []).append(row)

    def stream(name):
        return part.stream().filter(lambda value: canonical_split(str(value).strip()) == name, input_columns=[column])

    return {
        name: part._replace(
            open=lambda chosen=chosen: part.open().select(chosen),
            origin=f"{part.origin}, {column} {name}",
            stream=partial(stream, name) if part.stream else None,
        )
        for name, chosen in rows.items()
    }
