"""Find tars of samples (WebDataset's form, as CLIP_benchmark and img2dataset write it), index them or stream them."""

import itertools
import json
import os
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import datasets
import pyarrow as pa
from datasets.utils.file_utils import CONNECTION_ERRORS_TO_RETRY, xopen

from ...utils.errors import ClipScratchError
from ...utils.local_files import Listing, decode_text, list_files, read_text
from ..columns import DataOptions, cell_texts, check_no_columns
from ..dataset import TAR_IMAGE_FEATURE, build_dataset, prepared_features, utf8_key
from ..images.decode import is_image_name
from ..splits import Source, Split, check_one_folder, group_by_split, split_words
from ..templates import published_class_names, templates_from
from .streams import shard_error

# The files beside the splits, as CLIP_benchmark's writer names them.
CLASSES_FILE, TEMPLATES_FILE = "classnames.txt", "zeroshot_classification_templates.txt"
_TABLES = (".parquet", ".csv", ".jsonl")


def tar_source(folder: Path, listing: Listing, name: str, options: DataOptions) -> Source | None:
    """Return the splits of a folder of tars; `None` if it holds none that are the data."""
    splits = tar_splits(list_files(listing), str(folder))
    return open_tars(splits, folder, name, options, lambda tar: str(folder / tar)) if splits else None


def tar_splits(files: Sequence[str], where: str) -> dict[str, list[str]]:
    """Return the tars among the files of a dataset by split, named as by `datasets`, in the order of their numbers.

    Tars beside tables, or beside more images than there are tars, are not the data.
    """
    tars = [file for file in files if file.endswith(".tar") and not os.path.basename(file).startswith(".")]
    folders = {os.path.dirname(tar) for tar in tars}
    by_folder = any(split_words(folder.replace("/", " ")) for folder in folders)
    roots = tuple(f"{folder}/" for folder in folders) if by_folder else ""
    images = sum(is_image_name(file) for file in files if file.startswith(roots))
    tables = {file for file in files if file.lower().endswith(_TABLES) and os.path.dirname(file) in folders}
    if images > len(tars) or {os.path.splitext(table)[0] for table in tables} - {tar[:-4] for tar in tars}:
        return {}
    splits = group_by_split(sorted(tars, key=lambda file: (len(file), file)), where)
    check_one_folder(itertools.chain(*splits.values()), where)
    return splits


def open_tars(
    splits: dict[str, list[str]],
    folder: Path,
    name: str,
    options: DataOptions,
    address: Callable[[str], str],
    *,
    fetch: Callable[[Sequence[str]], object] = lambda tars: None,
    origin: str | None = None,
) -> Source:
    """Make a source of the splits of `tar_splits`.

    `folder` holds the small files, and the tars after `fetch`; `address` returns the address of a tar, to stream it.
    """
    check_no_columns(name, options)
    path, source = folder / TEMPLATES_FILE, {}
    templates = templates_from(str(path)) if path.exists() and read_text(path).strip() else None
    for split, tars in splits.items():
        where = origin or f"{folder / tars[0]}" + (f" and {len(tars) - 1} more" if len(tars) > 1 else "")
        indexed = partial(_index_split, tars, folder, options, fetch)
        streamed = partial(_stream_split, tars, folder, options, address, split)
        source[split] = Split(indexed, where, streamed, templates=templates)
    return source


def _index_split(tars, folder, options, fetch) -> datasets.Dataset:
    """Return the prepared dataset, whose images are positions in the tars."""
    fetch(tars)
    shards = [str(folder / tar) for tar in tars]
    names, samples = _class_names(shards, False, folder, options), _read_all(shards, streamed=False)
    rows = [(one.key, _text_of(one, names, options), one.shard, one.member, one.offset, one.size) for one in samples]
    keys, values, *places = map(list, zip(*rows, strict=True))
    if len(set(keys)) < len(keys):  # of shards that each count from zero
        keys = [f"{_stem(shard)}/{key}" for shard, key in zip(places[0], keys, strict=True)]
    images = pa.StructArray.from_arrays([*map(pa.array, places)], [*TAR_IMAGE_FEATURE])
    texts = {"captions" if names is None else "labels": values}
    return build_dataset(images, keys, **texts, class_names=names)


def _stream_split(tars, folder, options, address, split) -> datasets.IterableDataset:
    """Return the rows of the prepared dataset with the bytes of the images, one shard a tar."""
    shards = [address(tar) for tar in tars]
    names = _class_names(shards, True, folder, options)
    features, arguments = prepared_features(names), {"shards": shards, "class_names": names, "options": options}
    return datasets.IterableDataset.from_generator(_rows, features, arguments, split=datasets.NamedSplit(split))


def _rows(shards: list[str], class_names, options) -> Iterator[dict]:
    column = "captions" if class_names is None else "label"
    for sample in _read_all(shards, streamed=True):
        image = {"bytes": sample.image, "path": f"{sample.shard}: {sample.member}"}  # the path names it in errors
        text = _text_of(sample, class_names, options)
        yield {"image": image, column: text, "key": f"{_stem(sample.shard)}/{sample.key}"}


def _read_all(shards: Iterable[str], *, streamed: bool) -> Iterator["Sample"]:
    for shard in shards:
        yield from read_samples(shard, streamed=streamed)


def _stem(shard):
    return os.path.basename(shard).removesuffix(".tar")


@dataclass(slots=True)
class Sample:
    """An image of a tar: its place, its bytes in a stream, and the files beside it by ending (`txt`, `cls`, `json`)."""

    key: str
    shard: str
    member: str | None = None
    offset: int = 0
    size: int = 0
    image: bytes | None = None
    files: dict[str, bytes] = field(default_factory=dict)


def _text_of(sample: Sample, class_names: Sequence[str] | None, options: DataOptions) -> list[str] | int | None:
    """Return the captions, `[]` if there are none; or the label, `None` if there is none that is known."""
    texts = {ending: decode_text(data) or "" for ending, data in sample.files.items()}
    if class_names is not None:
        return _label(texts.get("cls", "").strip(), sample, class_names, options)
    if "txt" in texts:
        lines = [line.strip() for line in texts["txt"].splitlines() if line.strip()]
        # img2dataset writes one caption with the line breaks of the alt text; CLIP_benchmark one caption a line.
        stem = _stem(sample.shard)
        numbered = len(stem) >= 5 and (stem + sample.key).isdigit() and sample.key.startswith(stem)
        joined = numbered or "json" in texts if options.caption_lines is None else options.caption_lines == "join"
        return [" ".join(lines)] if joined and lines else lines
    try:
        fields = json.loads(texts.get("json", "{}"))
        return cell_texts(tuple(fields[name] for name in ("caption", "captions", "text") if name in fields)[:1])
    except (ValueError, TypeError):  # a row without a caption
        return []


def _label(text, sample, class_names, options):
    if re.fullmatch(r"-?\d+", text) and -1 <= int(text) < len(class_names):
        return int(text)
    if text in class_names:
        return class_names.index(text)
    if text and options.on_bad_row == "raise":
        raise ClipScratchError(
            f"{sample.shard}: {sample.member}: its label {text!r} is not the name or number of one of the "
            f"{len(class_names)} classes that have names, or set on_bad_row to skip."
        )
    return None


def _class_names(shards, streamed: bool, folder: Path, options: DataOptions) -> tuple[str, ...] | None:
    """Return the names of the classes if the first sample with a text has a label; `None` if it has captions."""
    first = next((sample for sample in _read_all(shards, streamed=streamed) if sample.files), None)
    if first is None:
        raise ClipScratchError(f"{folder}: its tars hold no images with a label (.cls) or captions (.txt, .json).")
    if "cls" not in first.files:
        return None
    path = folder / CLASSES_FILE
    if not options.class_names and not path.exists():
        raise ClipScratchError(f"{path}: is missing; write one name a line in label order, or give class names.")
    return tuple(options.class_names or published_class_names(path))  # a list would be counted as shards


class _Member(tarfile.TarInfo):
    """A header that raises where a broken archive ends. tarfile takes a damaged or missing header for the end."""

    @classmethod
    def fromtarfile(cls, archive):
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError("the archive has no proper end") from error


def read_samples(shard: str, *, streamed: bool) -> Iterator[Sample]:
    """Yield the samples of a tar that have an image, in order. Images are read if `streamed`, else passed over.

    The reader of `datasets` takes a tar that was cut between two members for a whole one; its `xopen` streams.
    """
    sample, seen = Sample("", shard), set()
    try:
        with (
            xopen(shard, "rb", block_size=0) if streamed else open(shard, "rb") as file,
            tarfile.open(fileobj=file, mode="r|" if streamed else "r:", tarinfo=_Member) as tar,
        ):
            while (member := tar.next()) is not None:
                tar.members.clear()  # else it keeps every header
                stem, _, ending = utf8_key(member.name).removeprefix("./").rpartition(".")
                ending, is_image = ending.lower(), is_image_name(member.name)
                hidden = os.path.basename(member.name).startswith(".")
                if member.isdir() or hidden or not (is_image or ending in ("txt", "cls", "json")):
                    continue
                if not member.isfile():  # GNU tar links what is there twice
                    raise tarfile.ReadError(f"{member.name} is a link; tar --hard-dereference writes files")
                if stem != sample.key:
                    if stem in seen:
                        raise ClipScratchError(
                            f"{shard}: the members of {stem} are not next to each other; sort the shard "
                            "(tar --sort=name)."
                        )
                    if sample.member:
                        yield sample
                    sample = Sample(stem, shard)
                    seen.add(stem)
                data = tar.fileobj.read(member.size) if streamed or not is_image else None  # extractfile is slow
                if data is not None and len(data) < member.size:
                    raise tarfile.ReadError(f"{member.name} is cut short")
                if not is_image:
                    sample.files[ending] = data
                elif sample.member:
                    raise ClipScratchError(
                        f"{shard}: {sample.member} and {member.name} are images of one sample; keep one."
                    )
                else:
                    sample.member, sample.image = utf8_key(member.name), data
                    sample.offset, sample.size = member.offset_data, member.size
    except (tarfile.TarError, OSError, *CONNECTION_ERRORS_TO_RETRY) as error:
        raise shard_error(shard, error) from error
    if sample.member:
        yield sample
