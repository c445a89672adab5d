"""Find and open tables (parquet, CSV, JSON lines): in a folder, as `metadata.*` beside images, or by their path."""

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
import pyarrow.csv
import pyarrow.parquet

from ...hub.errors_clipscratch import ClipScratchError
from ...utils.local_files import Listing, check_regular, file_of_cell, lfs_pointer, list_files, read_text
from ...utils.names import first_line
from ..columns import DataOptions, find_columns, is_text
from ..images.decode import is_image_name
from ..splits import SPLIT_WORD, Source, Split, canonical_split, is_split_name, split_of_path, split_words

logger = logging.getLogger(__name__)

_FORMATS = {".parquet": "parquet", ".csv": "csv", ".tsv": "csv", ".jsonl": "json", ".json": "json"}  # best first
_METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
_DELIMITERS = ",;\t|"
_HEAD = 20  # rows that tell what a table is


def is_table(path: str | Path) -> bool:
    """Whether the path ends like a table."""
    return _suffix(path) in _FORMATS


def _suffix(path: str | Path) -> str:
    return Path(path).suffix.lower()


def table_file_source(path: Path, options: DataOptions) -> Source:
    """The splits of one table: that which its name says, else train; or those of its split column."""
    return _source({split_of_path(path.name) or "train": [path]}, options)


def metadata_source(folder: Path, listing: Listing, name: str, options: DataOptions) -> Source:
    """The splits of the `metadata.*` tables beside images; none where there is none.

    Such a table names only files in `folder`: people get it from others, together with the images.
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
    values = [canonical_split(str(cell).removeprefix("./").split("/")[0]) for cell in cells]
    strange = next((cell for cell, value in zip(cells, values, strict=True) if not is_split_name(value)), None)
    if strange is not None:
        raise ClipScratchError(
            f"{part.origin}: lies beside split folders and names {strange}, which is in none; move the file, or put a "
            "metadata table into each split folder."
        )
    return _regrouped(part, values, "folder")


def table_source(folder: Path, listing: Listing, name: str, options: DataOptions) -> Source:
    """The splits of the tables of a folder; none where none of them is a table of images."""
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
    if aside := sorted({*tables}.difference(*splits.values())):
        logger.warning("%s: %d tables are left aside (%s, ...).", name, len(aside), aside[0])
    return _source({split: [folder / path for path in paths] for split, paths in splits.items()}, options)


def _tables(listing: Listing) -> Iterator[str]:
    """The tables that may be data: not those that lie beside an image or a tar of the same name."""
    for inside, files in listing.items():
        if tables := [file for file in files if file.lower().endswith((*_FORMATS,)) and not file.startswith(".")]:
            others = {os.path.splitext(file)[0] for file in files if is_image_name(file) or file.endswith(".tar")}
            others |= {f"{stem}_stats" for stem in others}  # of img2dataset
            for file in tables:
                if os.path.splitext(file)[0] not in others:
                    yield f"{inside}/{file}" if inside else file


def _of_one_folder(name: str, paths: list[str]) -> list[str]:
    """The tables of a split. Raises: ClipScratchError if those of several folders may be several configurations."""
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
    source, columns = {}, {}
    for split, paths in splits.items():
        head = _head(paths[0])
        root = Path(os.path.commonpath([path.parent for path in paths]))
        cells = _file_names(head)
        one_folder = all(path.parent == root for path in paths)
        read = functools.cache(partial(_read_tables, paths, root, options))
        source[split] = Split(
            read,
            ", ".join(map(str, paths[:3])) + (", ..." if len(paths) > 3 else ""),
            stream=partial(_stream, paths, options) if _suffix(paths[0]) == ".parquet" else None,
            root=find_image_root(root, cells if one_folder else (), options, paths[0], split=split),
            inside=None if options.image_root else inside,
        )
        if head and (column := split_column(head[0], options, source[split].origin)):
            alone = partial(_read_parquet, paths, options, [column])
            columns[split] = alone if source[split].stream else read
    return by_split_column(source, options, columns) if columns else source


def find_image_root(
    folder: Path, cells: Iterable[str], options: DataOptions, where: str | Path, *, split: str = "", quiet: bool = False
) -> Path:
    """The folder that paths in a table are relative to: `image_root`, the table's own, or one in it that holds them.

    Args:
        cells: some of the paths.
        where: what names them.
        split: of the rows.
        quiet: do not log a folder that was found.
    Raises: ClipScratchError if `image_root` is no folder.
    """
    if options.image_root:
        root = Path(options.image_root).expanduser()
        if not root.is_dir():
            raise ClipScratchError(
                f"image_root={options.image_root!r} is no folder; give the one that {where} starts from."
            )
        return root
    cells = list(itertools.islice(cells, _HEAD))

    def count(root):
        return sum(os.path.exists(file_of_cell(root, cell)) for cell in cells)

    if not cells or count(folder):
        return folder
    counts = {path: count(path) for pattern in ("*/", "*/*/") for path in sorted(folder.glob(pattern))}
    # Of folders with files of the same names, such as COCO's, the one that is called after the split.
    own = {path: number for path, number in counts.items() if split and number and split_of_path(path.name) == split}
    best = [path for path, number in (own or counts).items() if number and number == max((own or counts).values())]
    if len(best) != 1:
        return folder
    if not quiet:
        logger.info("%s names images in %s.", where, best[0])
    return best[0]


def _hold_images(folder: Path, paths: Iterable[str], options: DataOptions) -> bool:
    """Whether the first rows of tables that are alike hold images, or name some that are there."""
    first = {re.sub(r"\d+", "0", path): folder / path for path in paths}
    for path in first.values():  # a test split may be empty, all shards are not
        head = _head(path)
        cells = [cell.get("bytes") if isinstance(cell, dict) else cell for row in head for cell in row.values()]
        names = _file_names(head)
        root = find_image_root(path.parent, names, options, path, quiet=True)
        if any(isinstance(cell, bytes) for cell in cells) or any(os.path.isfile(file_of_cell(root, n)) for n in names):
            return True
    return False


def _file_names(rows: Iterable[dict]) -> list[str]:
    cells = [cell.get("path") if isinstance(cell, dict) else cell for row in rows for cell in row.values()]
    return [cell for cell in cells if isinstance(cell, str) and is_image_name(cell)]


def _head(path: Path) -> list[dict]:
    """Read the first rows; none if they cannot be read, which is reported when the table is opened."""
    check_regular(path)
    try:
        if _suffix(path) == ".parquet":
            with pyarrow.parquet.ParquetFile(path) as file:
                return next(file.iter_batches(batch_size=_HEAD)).to_pylist()
        if _FORMATS[_suffix(path)] == "csv":
            text = io.StringIO(read_text(path), newline="")
            delimiter, names = _header(text.readline(), path)
            rows = csv.reader(text, delimiter=delimiter)
            return [dict(zip(names, map(str.strip, row), strict=False)) for row in itertools.islice(rows, _HEAD)]
        return [row for row in itertools.islice(_json_rows(path), _HEAD) if isinstance(row, dict)]
    except Exception:  # every format's reader has errors of its own
        return []


def _read_tables(paths: Sequence[Path], root: Path, options: DataOptions) -> datasets.Dataset:
    """One table of several files, with the columns that are needed. Paths of images are relative to `root`."""
    kind, origin = _FORMATS[_suffix(paths[0])], str(paths[0])
    if kind == "parquet":
        features = _schema(paths[0])
        columns = _needed(features, options, origin)
        folders = itertools.groupby(paths, key=lambda path: path.parent)
        parts = [(folder, _read_parquet([*files], options, columns)) for folder, files in folders]
    else:
        read = _read_csv if kind == "csv" else _read_json
        parts = [(path.parent, read(path)) for path in paths]
        features = datasets.Features()  # a column may be empty, and so of no type, in one file
        for _, part in parts:
            features |= {c: f for c, f in part.features.items() if getattr(features.get(c), "dtype", "null") == "null"}
        columns = _needed(features, options, origin)
    image = find_columns(features, options, origin=origin)[0]
    try:
        chosen = [(part.select_columns(columns), os.path.relpath(folder, root)) for folder, part in parts]
        whole = datasets.concatenate_datasets([_with_paths(part, image, inside) for part, inside in chosen])
    except ValueError as error:
        raise ClipScratchError(
            f"{origin}: the other files have other columns ({first_line(error)}); mend them."
        ) from error
    return _with_numbers(whole, options) if kind == "csv" else whole


def _needed(features: datasets.Features, options: DataOptions, origin: str) -> list[str]:
    """The columns to read; the others may hold anything."""
    image, captions, label = find_columns(features, options, origin=origin)
    needed = {image, *captions, label, split_column(features, options, origin), "key"}
    return [column for column in features if column in needed]


def _with_paths(table: datasets.Dataset, image: str, inside: str) -> datasets.Dataset:
    """A table whose images, where it has paths and not bytes, are text that starts from the folder around `inside`."""
    cells = table.data.column(image)
    if isinstance(table.features[image], datasets.Image) and pc.struct_field(cells, "bytes").null_count == len(cells):
        cells = pc.struct_field(cells, "path")
    elif not is_text(table.features[image]) or inside == ".":
        return table
    paths = [
        cell and os.path.normpath(os.path.join(inside, cell)) if inside != "." else cell for cell in cells.to_pylist()
    ]
    return table.remove_columns(image).add_column(image, paths, feature=datasets.Value("string"))


def _with_numbers(table: datasets.Dataset, options: DataOptions) -> datasets.Dataset:
    """A table of text whose labels, where they are whole numbers and nothing else, are such."""
    label = find_columns(table.features, options, origin="")[2]
    cells = table.data.column(label) if label else pa.chunked_array([[""]])
    cells = pc.if_else(pc.equal(cells, ""), None, cells)
    for kind, pattern in (("int64", r"^-?[0-9]{1,18}$"), ("float64", r"^-?[0-9]*\.?[0-9]+$")):  # floats are refused
        if cells.null_count < len(cells) and pc.all(pc.match_substring_regex(cells, pattern)).as_py():
            numbers = pc.cast(cells, kind).to_pylist()
            return table.remove_columns(label).add_column(label, numbers, feature=datasets.Value(kind))
    return table


def _schema(path: Path) -> datasets.Features:
    with _named_errors(path, "parquet"):
        return datasets.Features.from_arrow_schema(pyarrow.parquet.read_schema(path))


def _read_parquet(paths: Sequence[Path], options: DataOptions, columns: Sequence[str]) -> datasets.Dataset:
    files = [glob.escape(str(path)) for path in paths]
    with _named_errors(paths[0], "parquet"):
        # Not load_dataset("parquet", ...), which tells the Hub of the load and waits where there is no network.
        return datasets.Dataset.from_parquet(files, columns=columns, cache_dir=options.cache_dir)


def _stream(paths: Sequence[Path], options: DataOptions) -> datasets.IterableDataset:
    columns = _needed(_schema(paths[0]), options, str(paths[0]))
    files = [glob.escape(str(path)) for path in paths]
    return datasets.IterableDataset.from_parquet(files, columns=columns).decode(False)


def _read_json(path: Path) -> datasets.Dataset:
    """`Dataset.from_json` guesses types by parts of 10 MB, and names no line."""
    rows = list(_json_rows(path))
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise ClipScratchError(f"{path}: its rows are no objects in braces; write one row a line.")
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
                f"{path}, line {number}: is no JSON ({first_line(error)}); mend or remove it."
            ) from error
        yield from value if isinstance(value, list) else [value]


def _array(values: list) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowException, OverflowError):  # of several types: as text
        return pa.array([value if value is None or isinstance(value, str) else json.dumps(value) for value in values])


def _read_csv(path: Path) -> datasets.Dataset:
    """All columns as text, and every row with the cells of the header.

    `Dataset.from_csv` guesses types by parts of 10,000 rows, and its pandas takes a row with a cell too many for one
    with an index, and fills up a short one.
    """
    text = read_text(path)
    delimiter, names = _header(text, path)
    data = text.encode()
    if data.count(b'"') % 2:  # a quote that is not closed swallows the rows behind it
        _check_rows(text, delimiter, names, path)
    try:
        table = pyarrow.csv.read_csv(
            io.BytesIO(data),
            pyarrow.csv.ReadOptions(column_names=names, skip_rows=1, block_size=min(len(data) + 1, (1 << 31) - 1)),
            pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False),
        )
    except pa.ArrowInvalid as error:
        _check_rows(text, delimiter, names, path)
        if "Empty CSV" not in str(error):
            raise ClipScratchError(
                f"{path}: cannot be read as CSV ({first_line(error)}); mend or remove it."
            ) from error
        table = pa.table({name: pa.array([], pa.string()) for name in names})
    return datasets.Dataset(pa.table([pc.utf8_trim_whitespace(column) for column in table.columns], names))


def _header(text: str, path: Path) -> tuple[str, list[str]]:
    line = text.partition("\n")[0]
    delimiter = max(_DELIMITERS, key=line.count)
    names = [name.strip() for name in next(csv.reader([line], delimiter=delimiter), [])]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None or not any(names):
        what = f"two columns are called {twice!r}" if twice else "its first line is empty, and names no columns"
        raise ClipScratchError(f"{path}: {what}; mend the file.")
    return delimiter, names


def _check_rows(text: str, delimiter: str, names: Sequence[str], path: Path) -> None:
    """Raise `ClipScratchError` for the first row whose cells are not those of the header, naming its line."""
    csv.field_size_limit((1 << 31) - 1)
    rows, line = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True), 1
    try:
        for row in rows:
            if row and len(row) != len(names):
                raise ClipScratchError(
                    f"{path}, line {line}: {len(row)} cells where the header has {len(names)} ({', '.join(names)}); "
                    f"put a text that holds {delimiter!r} in double quotes, or mend the row."
                )
            line = rows.line_num + 1
    except csv.Error as error:
        raise ClipScratchError(f"{path}, line {line}: {error}; a quote is not closed, or not written twice.") from error


@contextmanager
def _named_errors(path: Path, kind: str) -> Iterator[None]:
    """Inside, what a reader of `datasets` raises becomes one sentence, and neither progress nor log are shown."""
    disabled, level = datasets.utils.are_progress_bars_disabled(), datasets.utils.logging.get_verbosity()
    datasets.disable_progress_bars()
    datasets.utils.logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    except Exception as error:  # every format's reader has errors of its own
        with open(path, "rb") as file:
            pointer = lfs_pointer(file.read(100))
        cause = "it is a Git LFS pointer: git lfs pull" if pointer else first_line(error.__cause__ or error)
        raise ClipScratchError(f"{path}: cannot be read as {kind} ({cause}); mend or remove it.") from error
    finally:
        datasets.utils.logging.set_verbosity(level)
        if not disabled:
            datasets.enable_progress_bars()


def split_column(columns: Iterable[str], options: DataOptions, origin: str) -> str | None:
    """The column that names the split of a row. Raises: ClipScratchError if the one that was named is not there."""
    column = options.split_column or "split"
    if column not in columns and options.split_column not in (None, "none"):
        raise ClipScratchError(f"{origin}: split_column={column!r} is not there; the columns are {', '.join(columns)}.")
    return column if column in columns and column != "none" else None


def by_split_column(
    source: Source, options: DataOptions, columns: Mapping[str, Callable[[], datasets.Dataset]] | None = None
) -> Source:
    """Send the rows of tables to the splits that a column names.

    Args:
        source: as found by the names of files.
        options: `split_column`; default: a column called `split`. `none` leaves the source as it is.
        columns: split -> opens its split column alone, where that costs less than its table.

    Raises: ClipScratchError if a row names no split, or another one than the name of its file does.
    """
    regrouped: Source = {}
    if options.split_column == "none":
        return source
    for split, part in source.items():
        table = (columns or {}).get(split, part.open)()
        column = split_column(table.column_names, options, part.origin)
        names = ["" if value is None else str(value).strip() for value in table[column][:]] if column else [split]
        if "" in names:
            raise ClipScratchError(
                f"{part.origin}: row {names.index('') + 1} names no split in column {column!r}; mend it, or leave the "
                "column out with --split_column none."
            )
        names = [*map(canonical_split, names)]
        other = next((name for name in names if name != split), None)
        if other is not None and len(source) > 1:
            raise ClipScratchError(
                f"{part.origin}: belongs to {split}, and its column {column!r} says {other}; mend one of them, or "
                "leave the column out with --split_column none."
            )
        regrouped |= {split: part} if other is None else _regrouped(part, names, column)
    return regrouped


def _regrouped(part: Split, names: Sequence[str], column: str) -> Source:
    """A split's rows by the split that is named for each."""
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
