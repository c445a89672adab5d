"""Find and open tables: parquet, CSV and JSON lines, in a folder, as `metadata.*` beside images, or by name."""

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

from ..columns import DataOptions, find_columns, is_text
from ..local_files import LFS_HINT, LFS_POINTER, check_regular, decode_text, file_of_cell
from ..names import first_line
from ..pictures import is_picture_name
from ..splits import Source, Split, canonical_split, is_split_name, split_of_path, split_words

logger = logging.getLogger(__name__)

_FORMATS = {".parquet": "parquet", ".csv": "csv", ".tsv": "csv", ".jsonl": "json", ".json": "json"}  # best first
_METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
_NO_TABLES = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "config.json"}
_DELIMITERS = ",;\t|"
_HEAD = 20  # rows that tell what a table is

Listing = Mapping[str, Sequence[str]]  # folder below the dataset's, "" for itself -> names of its files


def is_table(path: str | Path) -> bool:
    """Whether the path ends like a table."""
    return Path(path).suffix.lower() in _FORMATS


def table_file_source(path: Path, options: DataOptions) -> Source:
    """The splits of one table file: that which its name says, else train; or those of its split column."""
    return _source({split_of_path(path.name) or "train": [path]}, options)


def metadata_source(folder: Path, listing: Listing, name: str, options: DataOptions) -> Source:
    """The splits of the `metadata.*` tables beside images; none where there is none.

    Such a table names only files in `folder`: people get it from others, together with the images.
    """
    first = ((inside, next((file for file in _METADATA if file in files), None)) for inside, files in listing.items())
    tables = {inside: folder / inside / file for inside, file in first if file}
    splits: dict[str | None, list[Path]] = {}
    for inside, path in tables.items():
        splits.setdefault(split_of_path(inside), []).append(path)
    if None not in splits or len(splits) == 1 and list(tables) != [""]:
        return _source({split or "train": paths for split, paths in splits.items()}, options, inside=folder)
    if len(splits) > 1:
        raise ValueError(f"{splits[None][0]}: lies beside split folders; put one into each of them, with its own rows.")
    source = _source({"train": [tables[""]]}, options, inside=folder)
    tops = {inside.split("/")[0] for inside, files in listing.items() if any(map(is_picture_name, files))}
    if len(source) > 1 or sum(map(is_split_name, tops)) < 2:
        return source
    part = source["train"]
    table = part.open()
    cells = table[find_columns(table.features, options, origin=part.origin)[0]][:]
    values = [canonical_split(str(cell).removeprefix("./").split("/")[0]) for cell in cells]
    strange = next((cell for cell, value in zip(cells, values, strict=True) if not is_split_name(value)), None)
    if strange is not None:
        raise ValueError(
            f"{tables['']}: lies beside split folders and names {strange}, which is in none; move the file, or put a "
            "metadata table into each split folder."
        )
    return _regrouped(part, values, "split folder")


def table_source(folder: Path, listing: Listing, name: str, options: DataOptions) -> Source:
    """The splits of the tables of a folder; none where there is no table of images."""
    tables = list(_tables(listing))
    has_images = any(is_picture_name(file) for files in listing.values() for file in files)
    named = options.image_column or options.caption_column or options.label_column or options.image_root
    chosen = []
    for suffix in _FORMATS:
        alike: dict[str, list[str]] = {}  # shards of one table
        for path in (path for path in tables if path.lower().endswith(suffix)):
            alike.setdefault(re.sub(r"\d+", "0", path), []).append(path)
        chosen = [path for paths in alike.values() if _holds_images(folder / paths[0], options) for path in paths]
        if not chosen and (named or not has_images):  # the sentence about what it lacks is more use than another form
            chosen = [path for paths in alike.values() for path in paths if suffix != ".json" or split_of_path(path)]
        if chosen:
            break
    splits: dict[str | None, list[str]] = {}
    for path in sorted(chosen):
        splits.setdefault(split_of_path(path), []).append(path)
    unnamed = splits.pop(None, [])
    splits = splits or ({"train": unnamed} if unnamed else {})
    splits = {split: _of_one_folder(name, paths) for split, paths in splits.items()}
    if aside := sorted({*tables}.difference(*splits.values())):
        logger.warning("%s: %d tables are left aside (%s, ...).", name, len(aside), aside[0])
    return _source({split: [folder / path for path in paths] for split, paths in splits.items()}, options)


def _tables(listing: Listing) -> Iterator[str]:
    """The tables that may be data: not those that lie beside an image or a tar of the same name."""
    for inside, files in listing.items():
        others = {os.path.splitext(file)[0] for file in files if is_picture_name(file) or file.endswith(".tar")}
        for file in files:
            stem = os.path.splitext(file)[0]
            if not is_table(file) or file.startswith(".") or file in _NO_TABLES:
                continue
            if stem.lower() != "metadata" and stem not in others and stem.removesuffix("_stats") not in others:
                yield f"{inside}/{file}" if inside else file


def _of_one_folder(name: str, paths: list[str]) -> list[str]:
    """The tables of a split that are one dataset. Raises: ValueError if they are several configurations."""
    folders: dict[str, list[str]] = {}
    for path in paths:
        top = path.split("/")[0] if "/" in path else ""
        folders.setdefault("" if split_words(top) or top.isdigit() else top, []).append(path)
    if len(folders) > 1 and "" not in folders:
        raise ValueError(
            f"{name}: the sub-folders {', '.join(map(repr, folders))} hold tables of their own, which may be several "
            f"configurations of one dataset; choose one with --dataset_config {next(iter(folders))}."
        )
    return folders.get("") or paths


def _source(splits: Mapping[str, list[Path]], options: DataOptions, *, inside: Path | None = None) -> Source:
    source, columns = {}, {}
    for split, paths in splits.items():
        for path in paths:
            check_regular(path)
        head = _head(paths[0])
        root = Path(os.path.commonpath([path.parent for path in paths]))
        cells = [cell for row in head for cell in row.values() if isinstance(cell, str) and is_picture_name(cell)]
        source[split] = Split(
            functools.cache(partial(_read_tables, paths, root, options)),
            ", ".join(map(str, paths[:3])) + (", ..." if len(paths) > 3 else ""),
            stream=partial(_stream, paths, options) if paths[0].suffix.lower() == ".parquet" else None,
            root=find_image_root(root, cells, options, str(paths[0])) if cells or options.image_root else root,
            inside=inside,
        )
        if head and (column := _split_column(head[0], options, source[split].origin)):
            columns[split] = lambda paths=paths, root=root, column=column: _read_tables(paths, root, options, [column])
    return by_split_column(source, options, columns) if columns else source


def find_image_root(folder: Path, cells: Iterable[str], options: DataOptions, where: str) -> Path:
    """The folder that paths in a table are relative to: `image_root`, the table's own, or one in it that holds them.

    Args:
        cells: some of the paths.
    Raises: ValueError if `image_root` is no folder.
    """
    if options.image_root:
        root = Path(options.image_root).expanduser()
        if not root.is_dir():
            raise ValueError(
                f"image_root={options.image_root!r} is no folder; give the one that the paths of {where} start from."
            )
        return root
    cells = list(itertools.islice(cells, _HEAD))

    def count(root):
        return sum(os.path.exists(file_of_cell(root, cell)) for cell in cells)

    if not cells or count(folder):
        return folder
    below = [path for pattern in ("*/", "*/*/") for path in folder.glob(pattern)]
    counts = {path: count(path) for path in below}
    best = [path for path in below if counts[path] and counts[path] == max(counts.values())]
    if len(best) != 1:
        return folder
    logger.info("%s names images in %s.", where, best[0])
    return best[0]


def _holds_images(path: Path, options: DataOptions) -> bool:
    """Whether the first rows of a table hold images, or name some that are there."""
    cells = [cell for row in _head(path) for cell in row.values()]
    if any(isinstance(cell.get("bytes") if isinstance(cell, dict) else cell, bytes) for cell in cells):
        return True
    names = [cell for cell in cells if isinstance(cell, str) and is_picture_name(cell)]
    root = find_image_root(path.parent, names, options, str(path)) if names else path.parent
    return any(os.path.isfile(file_of_cell(root, name)) for name in names)


def _head(path: Path) -> list[dict]:
    """The first rows; none if they cannot be read, which whoever reads the table says."""
    try:
        check_regular(path)
        if path.suffix.lower() == ".parquet":
            with pyarrow.parquet.ParquetFile(path) as file:
                return next(file.iter_batches(batch_size=_HEAD)).to_pylist()
        with open(path, "rb") as file:
            data = file.read(1 << 20)
            data += file.readline() if _FORMATS[path.suffix.lower()] == "csv" else b""
        if _FORMATS[path.suffix.lower()] == "csv":
            text = decode_text(data, path)
            delimiter, names = _header(text, path)
            rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
            return [dict(zip(names, map(str.strip, row), strict=False)) for row in itertools.islice(rows, 1, _HEAD + 1)]
        if data.lstrip().startswith(b"["):
            return json.loads(path.read_bytes())[:_HEAD]
        lines = itertools.islice(decode_text(data, path).splitlines(), _HEAD)
        return [json.loads(line) for line in lines if line.strip()]
    except Exception:
        return []


def _read_tables(
    paths: Sequence[Path], root: Path, options: DataOptions, columns: Sequence[str] | None = None
) -> datasets.Dataset:
    """One table of several files, with the columns that are needed. Paths of images are relative to `root`."""
    kind, origin = _FORMATS[paths[0].suffix.lower()], str(paths[0])
    folders: dict[Path, list[Path]] = {}
    for path in paths:
        folders.setdefault(path.parent, []).append(path)
    if kind == "parquet":
        columns = columns or _needed(_parquet_features(paths[0]), options, origin)
        parts = [(folder, _read_parquet(files, options, columns)) for folder, files in folders.items()]
    else:
        read = _read_csv if kind == "csv" else partial(_read_json, options=options)
        parts = [(folder, read(path)) for folder, files in folders.items() for path in files]
        features: dict = {}  # a column may be empty, and so of no type, in one file
        for _, part in parts:
            features |= {c: f for c, f in part.features.items() if getattr(features.get(c), "dtype", "null") == "null"}
        columns = columns or _needed(datasets.Features(features), options, origin)
        for path, (_, part) in zip(itertools.chain(*folders.values()), parts, strict=True):
            if lacks := set(columns).difference(part.column_names):
                raise ValueError(f"{path}: lacks the column {lacks.pop()!r}, which {origin} has; mend or remove it.")
        parts = [(folder, part.select_columns(columns)) for folder, part in parts]
    parts = [_with_paths(part, os.path.relpath(folder, root), options) for folder, part in parts]
    try:
        whole = parts[0] if len(parts) == 1 else datasets.concatenate_datasets(parts)
    except Exception as error:
        raise ValueError(f"{origin}: its columns and those of the other files differ ({first_line(error)}).") from error
    return _with_numbers(whole, options) if kind == "csv" and len(columns) > 1 else whole


def _needed(features: datasets.Features, options: DataOptions, origin: str) -> list[str]:
    """The columns that are read: what others hold, and in which types, hurts nobody."""
    image, captions, label = find_columns(features, options, origin=origin)
    needed = {image, *captions, label, _split_column(features, options, origin), "key"}
    return [column for column in features if column in needed]


def _with_paths(table: datasets.Dataset, inside: str, options: DataOptions) -> datasets.Dataset:
    """A table whose images are paths from another folder, be they text or cells of images without bytes."""
    texts = {}
    for column, feature in table.features.items():
        cells = table.data.column(column)
        if isinstance(feature, datasets.Image) and pc.struct_field(cells, "bytes").null_count == len(cells) > 0:
            texts[column] = pc.struct_field(cells, "path").to_pylist()
    if inside != ".":
        image = find_columns(table.features, options, origin="")[0]
        if is_text(table.features[image]):
            texts[image] = table[image][:]
    for column, cells in texts.items():
        cells = [cell and os.path.normpath(os.path.join(inside, cell)) if inside != "." else cell for cell in cells]
        order, table = table.column_names, table.remove_columns(column).add_column(column, pa.array(cells, pa.string()))
        table = table.select_columns(order)
    return table


def _parquet_features(path: Path) -> datasets.Features:
    with _named_errors(path, "parquet"):
        return datasets.Features.from_arrow_schema(pyarrow.parquet.read_schema(path))


def _read_parquet(paths: Sequence[Path], options: DataOptions, columns: Sequence[str]) -> datasets.Dataset:
    with _named_errors(paths[0], "parquet"):
        # Not load_dataset("parquet", ...), which tells the Hub of the load and waits where there is no network.
        files = [glob.escape(str(path)) for path in paths]
        return datasets.Dataset.from_parquet(files, columns=columns, cache_dir=options.cache_dir)


def _stream(paths: Sequence[Path], options: DataOptions) -> datasets.IterableDataset:
    features = _parquet_features(paths[0])
    columns = _needed(features, options, str(paths[0]))
    stream = datasets.IterableDataset.from_parquet([glob.escape(str(path)) for path in paths], columns=columns)
    for column in columns:
        if isinstance(features[column], datasets.Image):
            stream = stream.cast_column(column, datasets.Image(decode=False))
    return stream


def _read_json(path: Path, options: DataOptions) -> datasets.Dataset:
    data = path.read_bytes()
    decode_text(data, path)
    encoding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8"
    with _named_errors(path, "JSON"):  # in one chunk, so that types are those of the whole file
        return datasets.Dataset.from_json(
            glob.escape(str(path)), cache_dir=options.cache_dir, chunksize=len(data) + 1, encoding=encoding
        )


def _read_csv(path: Path) -> datasets.Dataset:
    """All columns as text. pandas, and `Dataset.from_csv` with it, takes a row with a cell too many for one with an
    index, and fills up a short one.
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
        if "Empty CSV" in str(error):
            return datasets.Dataset(pa.table({name: pa.array([], pa.string()) for name in names}))
        _check_rows(text, delimiter, names, path)
        raise ValueError(f"{path}: cannot be read as CSV ({first_line(error)}); mend or remove it.") from error
    return datasets.Dataset(pa.table([pc.utf8_trim_whitespace(column) for column in table.columns], names))


def _header(text: str, path: Path) -> tuple[str, list[str]]:
    line = text.lstrip("\r\n").partition("\n")[0]
    delimiter = "\t" if path.suffix.lower() == ".tsv" else max(_DELIMITERS, key=line.count)
    names = [name.strip() for name in next(csv.reader([line], delimiter=delimiter), [])]
    twice = next((name for name in names if names.count(name) > 1), None)
    if not names or twice is not None:
        what = f"two columns are called {twice!r}" if names else "it is empty; its first line names the columns"
        raise ValueError(f"{path}: {what}; mend the file.")
    return delimiter, names


def _check_rows(text: str, delimiter: str, names: Sequence[str], path: Path) -> None:
    """Raise ValueError for the first row whose cells are not those of the header, naming its line."""
    csv.field_size_limit((1 << 31) - 1)
    rows, line = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True), 1
    try:
        for row in rows:
            if row and len(row) != len(names):
                raise ValueError(
                    f"{path}, line {line}: {len(row)} cells where the header has {len(names)} ({', '.join(names)}); "
                    f"put a text that holds {delimiter!r} in double quotes, or mend the row."
                )
            line = rows.line_num + 1
    except csv.Error as error:
        raise ValueError(f"{path}, line {line}: {error}; a quote is not closed, or not written twice.") from error


def _with_numbers(table: datasets.Dataset, options: DataOptions) -> datasets.Dataset:
    """A table of text whose labels, where they are whole numbers and nothing else, are such."""
    label = find_columns(table.features, options, origin="")[2]
    if label is None:
        return table
    cells = table.data.column(label)
    cells = pc.if_else(pc.equal(cells, ""), None, cells)
    if cells.null_count == len(cells) or not pc.all(pc.match_substring_regex(cells, "^-?[0-9]{1,18}$")).as_py():
        return table
    return table.remove_columns(label).add_column(label, pc.cast(cells, pa.int64()).combine_chunks())


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
            pointer = file.read(len(LFS_POINTER)) == LFS_POINTER
        cause = LFS_HINT if pointer else first_line(error.__cause__ or error)
        raise ValueError(f"{path}: cannot be read as {kind} ({cause}); mend or remove it.") from error
    finally:
        datasets.utils.logging.set_verbosity(level)
        if not disabled:
            datasets.enable_progress_bars()


def _split_column(columns: Iterable[str], options: DataOptions, origin: str) -> str | None:
    """The column that names the split of a row. Raises: ValueError if the one that was named is not there."""
    if options.split_column in (None, "none"):
        return "split" if options.split_column is None and "split" in columns else None
    if options.split_column not in columns:
        raise ValueError(
            f"{origin}: split_column={options.split_column!r} is not there; the columns are {', '.join(columns)}."
        )
    return options.split_column


def by_split_column(
    source: Source, options: DataOptions, values: Mapping[str, Callable[[], datasets.Dataset]] | None = None
) -> Source:
    """Send the rows of tables to the splits that a column names.

    Args:
        source: as found by the names of files.
        options: `split_column`; default: a column called `split`. `none` leaves the source as it is.
        values: split -> opens its split column alone, where that costs less than its table.

    Raises: ValueError if a row names no split, or another one than the name of its file does.
    """
    regrouped = {}
    for split, part in source.items():
        table = (values or {}).get(split, part.open)()
        column = _split_column(table.column_names, options, part.origin)
        names = table[column][:] if column else [split]
        empty = next((row for row, value in enumerate(names) if value is None or not str(value).strip()), None)
        if empty is not None:
            raise ValueError(
                f"{part.origin}: row {empty + 1} names no split in column {column!r}; mend it, or leave the column out "
                "with --split_column none."
            )
        names = [canonical_split(str(value).strip()) for value in names]
        other = next((value for value in names if value != split), None)
        if other is not None and len(source) > 1:
            raise ValueError(
                f"{part.origin}: the file is named after {split}, and its column {column!r} says {other}; mend one of "
                "them, or leave the column out with --split_column none."
            )
        regrouped |= {split: part} if other is None else _regrouped(part, names, column)
    return regrouped


def _regrouped(part: Split, values: Sequence[str], column: str) -> Source:
    """A split's rows by the split that is written for each."""
    rows: dict[str, list[int]] = {}
    for row, value in enumerate(values):
        rows.setdefault(value, []).append(row)

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
