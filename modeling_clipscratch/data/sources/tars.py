"""Find tars of samples (WebDataset's form, as CLIP_benchmark and img2dataset write it), index them or stream them."""

import json
import logging
import os
import re
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal

import datasets
import pyarrow as pa
from datasets.utils.file_utils import xopen

from ...utils.errors import ClipScratchError
from ...utils.local_files import Listing, decode_text, is_lfs_pointer, list_files, read_text, stamp
from ..columns import DataOptions, cell_texts, check_no_columns
from ..dataset import build_dataset, prepared_features, utf8_key
from ..images.decode import IMAGE_EXTENSIONS, is_image_name
from ..splits import Source, Split, split_of_path, split_words
from ..templates import published_class_names, templates_from
from .streams import MAY_PASS, ShardError, shard_error

logger = logging.getLogger(__name__)

# The small files beside the splits, as CLIP_benchmark's writer names them.
KIND_FILE, CLASSES_FILE, TEMPLATES_FILE = "dataset_type.txt", "classnames.txt", "zeroshot_classification_templates.txt"
COUNT_FILE = "nshards.txt"
SMALL_FILES = (KIND_FILE, CLASSES_FILE, TEMPLATES_FILE, COUNT_FILE, f"*/{COUNT_FILE}")
_TABLES = (".parquet", ".csv", ".jsonl")
_TEXTS = ("txt", "cls", "json")  # endings of the files beside an image
_KINDS = {"classification": "label", "retrieval": "captions"}  # content of KIND_FILE
_JSON_FIELDS = {"captions": ("caption", "captions", "text"), "label": ("label", "cls")}


def tar_source(folder: Path, listing: Listing, name: str, options: DataOptions) -> Source | None:
    """Return the splits of a folder of tars; `None` if it holds none that are the data."""
    splits = tar_splits(list_files(listing), str(folder))
    return open_tars(splits, folder, name, options, lambda tar: str(folder / tar)) if splits else None


def tar_splits(files: Sequence[str], where: str) -> dict[str, list[str]]:
    """Return the tars among the files of a dataset by split, each in the order of their numbers.

    Splits are named as by `datasets`. Where it would merge folders or drop tars silently, this raises or warns.
    Tars beside tables, or beside more images than there are tars, are not the data.

    >>> tar_splits(["flickr_test_00.tar", "train-10.tar", "train-2.tar"], "")
    {'train': ['train-2.tar', 'train-10.tar'], 'test': ['flickr_test_00.tar']}
    """
    tars = [file for file in files if file.endswith(".tar") and not os.path.basename(file).startswith(".")]
    folders = {tar: os.path.dirname(tar) for tar in sorted(tars, key=lambda file: (len(file), file))}
    by_folder = any(split_words(folder.replace("/", " ")) for folder in folders.values())
    roots = tuple(f"{folder}/" for folder in folders.values()) if by_folder else ""
    images = sum(is_image_name(file) for file in files if file.startswith(roots))
    tables = {file for file in files if file.lower().endswith(_TABLES) and os.path.dirname(file) in folders.values()}
    beside = {os.path.splitext(table)[0] for table in tables} - {tar.removesuffix(".tar") for tar in tars}
    if images > len(tars) or (beside and not by_folder):
        return {}
    splits: dict[str, list[str]] = {}
    for tar, folder in folders.items():
        split = split_of_path(tar) or (os.path.basename(folder) if by_folder else "")
        splits.setdefault(split, []).append(tar)
    unnamed = splits.pop("", [])
    if unnamed and splits:
        logger.warning("%s: %d tars belong to no split and are left out (%s, ...).", where, len(unnamed), unnamed[0])
    elif unnamed:
        splits = {"train": unnamed}
    for split, members in splits.items():
        if len(places := sorted({folders[tar] for tar in members})) > 1:
            raise ClipScratchError(
                f"{where}: {places[0] or '.'!r} and {places[1]!r} both hold tars of {split}; rename or remove one, or "
                "choose a sub-folder with --dataset_config."
            )
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

    Args:
        folder: Holds the small files, and the tars after `fetch`.
        address: Returns the address of a tar, to stream it.
        fetch: Called with the tars of a split before they are indexed.
        origin: Where the rows come from. Default: the tars.
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
    tars = _complete(tars, folder)
    fetch(tars)
    try:
        samples = [sample for tar in tars for sample in _index(str(folder / tar), *stamp(str(folder / tar)))]
    except OSError as error:
        raise shard_error(error.filename, error) from error
    reading = _Reading.of(samples, folder, options)
    keys = [sample.key for sample in samples]
    if len(set(keys)) < len(keys):  # of shards that each count from zero
        keys = [f"{_stem(sample.shard)}/{sample.key}" for sample in samples]
    fields = ("shard", "member", "offset", "size")
    images = pa.StructArray.from_arrays(
        [pa.array([getattr(sample, name) for sample in samples]) for name in fields], fields
    )
    texts = {"captions" if reading.class_names is None else "labels": [*map(reading.value, samples)]}
    return build_dataset(images, keys, **texts, class_names=reading.class_names)


def _stream_split(tars, folder, options, address, split) -> datasets.IterableDataset:
    """Return the rows of the prepared dataset with the bytes of the images, one shard a tar."""
    shards = [address(tar) for tar in _complete(tars, folder)]
    samples = (sample for shard in shards for sample in read_samples(shard, streamed=True))
    reading = _Reading.of(samples, folder, options)
    features, arguments = prepared_features(reading.class_names), {"shards": shards, "reading": reading}
    return datasets.IterableDataset.from_generator(_rows, features, arguments, split=datasets.NamedSplit(split))


def _rows(shards: list[str], reading: "_Reading") -> Iterator[dict]:
    for shard in shards:
        for sample in read_samples(shard, streamed=True):
            image = {"bytes": sample.image, "path": sample.name}  # the path names the image in errors
            yield {"image": image, reading.kind: reading.value(sample), "key": f"{_stem(shard)}/{sample.key}"}


def _complete(tars, folder):
    """Return the tars of a split. Raise if the count file is not a number, or a tar that it counts is missing."""
    where = os.path.dirname(tars[0])
    count_file, names = folder / where / COUNT_FILE, [os.path.basename(tar) for tar in tars]
    if not count_file.exists() or split_words(names[0]):  # then it counts the tars of the folder, not of a split
        return tars
    count = read_text(count_file).strip()
    if not count.isdigit() or int(count) == 0:
        raise ClipScratchError(f"{count_file}: {count!r} is not a number of shards; write how many there are.")
    expected = [f"{number}.tar" for number in range(int(count))]
    if missing := next((name for name in expected if name not in names), None):
        missing = count_file.with_name(missing)
        raise ClipScratchError(f"{missing}: is missing, one of {count} shards; fetch it or correct {COUNT_FILE}.")
    return [os.path.join(where, name) for name in expected]


@dataclass(slots=True)
class Sample:
    """An image of a tar and the files beside it.

    Attributes:
        key: Its name, which ends at the first dot of the members' names.
        shard, member, offset, size: Where the image is.
        image: Its bytes, in a stream.
        files: Lower-case ending behind the key (`txt`, `v1.txt`, `cls`, `json`) -> bytes.
    """

    key: str
    shard: str
    member: str | None = None
    offset: int = 0
    size: int = 0
    image: bytes | None = None
    files: dict[str, bytes] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.shard}: {self.member}"

    def ending(self, kind: str) -> str | None:
        """Return the ending of the file of a kind (`txt`, `cls`, `json`): the kind itself, or one that ends in it."""
        if kind in self.files:
            return kind
        others = [ending for ending in self.files if ending.endswith(f".{kind}")]
        if len(others) > 1:
            raise ShardError(
                f"{self.shard}: {self.key}.{others[0]} and {self.key}.{others[1]} are two texts of one sample (its "
                "name ends at the first dot); keep one, or rename the other."
            )
        return others[0] if others else None

    def text(self, kind: Literal["label", "captions"], options: DataOptions):
        """Return the content of `.cls` or `.txt`, else the field of the `.json`; `None` if there is neither."""
        own, other = ("cls", "txt") if kind == "label" else ("txt", "cls")
        if ending := self.ending(own):
            text = decode_text(self.files[ending])
            if text is None:
                _bad_row(f"{self.shard}: {self.key}.{ending} is not UTF-8 text; save it as UTF-8", options)
            return text
        if self.ending(other) or (ending := self.ending("json")) is None:
            return None
        try:
            fields = json.loads(decode_text(self.files[ending]) or "?")
            return next((fields[name] for name in _JSON_FIELDS[kind] if fields.get(name) is not None), None)
        except (ValueError, AttributeError, RecursionError):
            _bad_row(f"{self.shard}: {self.key}.{ending} is not a JSON object; write it again", options)


def _bad_row(message, options):
    if options.on_bad_row == "raise":
        raise ShardError(f"{message}, or set on_bad_row to skip.")


@dataclass(frozen=True)
class _Reading:
    """How to read the samples of a split: as labels of classes, or as captions."""

    kind: Literal["label", "captions"]
    class_names: tuple[str, ...] | None
    options: DataOptions

    @classmethod
    def of(cls, samples, folder, options):
        """Decide by the folder's files, else by the first sample with a text."""
        kind_file, names_file = folder / KIND_FILE, folder / CLASSES_FILE
        stated = read_text(kind_file).strip() if kind_file.exists() else None
        if stated not in (None, *_KINDS):
            raise ClipScratchError(f"{kind_file}: {stated!r} is not supported; {' and '.join(map(repr, _KINDS))} are.")
        kind, first = _KINDS.get(stated), None
        for sample in samples:
            first = first or sample
            # CLIP_benchmark's writer states nothing for classification; other writers state nothing for captions.
            has = [value for value in _KINDS.values() if not kind and sample.text(value, options) is not None]
            if len(has) > 1 and not sample.ending("cls"):
                raise ShardError(
                    f"{sample.name}: the .json beside it has a label and a caption; write 'retrieval' or "
                    f"'classification' into {KIND_FILE}."
                )
            if kind := kind or (has and has[0]):
                break
        if first is None:
            raise ClipScratchError(f"{folder}: its tars hold no images; check how they were written.")
        if not kind:
            raise ClipScratchError(
                f"{first.name}: has neither a label (.cls) nor captions (.txt, .json) beside it, as all other images; "
                "every sample needs one."
            )
        if kind == "captions":
            return cls(kind, None, options)
        if not options.class_names and not names_file.exists():
            raise ClipScratchError(
                f"{folder}: has no {CLASSES_FILE}; write one name a line in label order, or give class names."
            )
        return cls(kind, tuple(options.class_names or published_class_names(names_file)), options)

    def value(self, sample: Sample) -> list[str] | int | None:
        """Return the captions of a sample, `[]` if it has none; or its label, `None` if it has none that is known."""
        value = sample.text(self.kind, self.options)
        if self.class_names is None:
            if not isinstance(value, str):
                return cell_texts((value,))
            lines = [line.strip() for line in value.splitlines() if line.strip()]
            joined = (self.options.caption_lines or ("join" if _is_of_img2dataset(sample) else "split")) == "join"
            return [" ".join(lines)] if joined and lines else lines
        text, names = "" if value is None else str(value).strip(), self.class_names
        if text in names and not text.isdigit():
            return names.index(text)
        if re.fullmatch(r"-?\d+", text) and -1 <= int(text) < len(names):
            return int(text)
        if value is not None:
            expected = f"one of the {len(names)} classes that have names"
            _bad_row(f"{sample.name}: its label {text!r} is not the name or number of {expected}", self.options)
        return None


def _is_of_img2dataset(sample):
    """img2dataset writes one caption with the line breaks of the alt text; CLIP_benchmark writes one caption a line."""
    stem = _stem(sample.shard)
    numbered = len(stem) >= 5 and (stem + sample.key).isdigit() and sample.key.startswith(stem)
    return numbered or "json" in sample.files


def _stem(shard):
    return os.path.basename(shard).removesuffix(".tar")


@lru_cache(maxsize=16)  # loading a dataset again in a process does not read its tars again
def _index(shard: str, size: int, mtime_ns: int) -> list[Sample]:
    if utf8_key(shard) != shard:
        raise ShardError(f"{utf8_key(shard)}: its path is not UTF-8; rename it.")
    samples = list(read_samples(shard, streamed=False))
    for sample in samples:
        if "json" in sample.files and (sample.ending("txt") or sample.ending("cls")):
            sample.files["json"] = b""  # it is not read, and takes memory
    return samples


class _Member(tarfile.TarInfo):
    """A header that raises where a broken archive ends. tarfile takes a damaged or missing header for the end."""

    @classmethod
    def frombuf(cls, buf, encoding, errors):
        # Plain files, without times and owners, whose parsing takes tarfile most of its time.
        plain = len(buf) == tarfile.BLOCKSIZE and buf[156:157] == tarfile.REGTYPE and not buf[345]
        if not plain or sum(buf) - sum(buf[148:156]) + 8 * ord(" ") != tarfile.nti(buf[148:156]):
            return super().frombuf(buf, encoding, errors)
        member = cls(tarfile.nts(buf[:100], encoding, errors))
        member.size = tarfile.nti(buf[124:136])
        return member

    @classmethod
    def fromtarfile(cls, archive):
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError("the archive has no proper end") from error


def read_samples(shard: str, *, streamed: bool) -> Iterator[Sample]:
    """Yield the samples of a tar that have an image, in order.

    The reader of `datasets` takes a tar that was cut between two members for a whole one, and raises where images end
    differently; its `xopen` is what streams, with its retries.

    Args:
        shard: Path or address.
        streamed: Read from the beginning to the end, images included, and hold one sample at a time. Otherwise images
            are passed over, and the members of a sample may lie anywhere.
    """
    samples: dict[str, Sample] = {}
    incomplete = set()  # keys of the streamed samples that lacked something
    try:
        with (
            xopen(shard, "rb", block_size=0) if streamed else open(shard, "rb") as file,
            tarfile.open(fileobj=file, mode="r|" if streamed else "r:", tarinfo=_Member) as tar,
        ):
            while (member := tar.next()) is not None:
                tar.members.clear()  # else it keeps every header
                parent, slash, base = member.name.rpartition("/")
                stem, _, ending = base.partition(".")
                ending = ending.lower()
                last = ending.rpartition(".")[2]
                is_image = last in IMAGE_EXTENSIONS
                if not stem or not (is_image or last in _TEXTS):  # a hidden file has no stem
                    continue
                if not member.isfile():
                    if member.islnk() or member.issym():  # GNU tar links what is there twice
                        raise tarfile.ReadError(
                            f"{member.name} is a link to {member.linkname}; tar --hard-dereference writes files"
                        )
                    continue
                key, name = utf8_key(f"{parent}{slash}{stem}".removeprefix("./")), utf8_key(member.name)
                if key not in samples:
                    if key in incomplete:
                        raise ShardError(
                            f"{shard}: the members of {key} are not next to each other, as a stream needs them; sort "
                            "the shard (tar --sort=name), or leave streaming out."
                        )
                    if streamed:
                        incomplete.update(old for old, one in samples.items() if not (one.member and one.files))
                        yield from (sample for sample in samples.values() if sample.member)
                        samples.clear()
                    samples[key] = Sample(key, shard)
                sample, data = samples[key], None
                if streamed or not is_image:
                    data = tar.fileobj.read(member.size)
                    if len(data) < member.size:
                        raise tarfile.ReadError(f"{member.name} is cut short")
                if not is_image:
                    sample.files[ending] = data
                elif sample.member:
                    raise ShardError(
                        f"{shard}: {sample.member} and {name} are two images of one sample (its name ends at the "
                        "first dot); keep one, or rename the other."
                    )
                else:
                    sample.member, sample.offset, sample.size = name, member.offset_data, member.size
                    sample.image = data
    except tarfile.TarError as error:
        with xopen(shard, "rb") as file:
            if is_lfs_pointer(file.read(64)):
                raise ShardError(f"{shard}: is a Git LFS pointer, not the tar; git lfs pull fetches it.") from error
        raise shard_error(shard, error) from error
    except MAY_PASS as error:
        raise shard_error(shard, error) from error
    yield from (sample for sample in samples.values() if sample.member)
