"""Shards go in, tars or parquet files, as paths or addresses of the Hub; their raw rows come out, nothing is kept."""

import glob
import logging
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass

import datasets
from datasets.utils.file_utils import CONNECTION_ERRORS_TO_RETRY, xopen

from .pictures import is_picture_name
from .shards import refuse_link

logger = logging.getLogger(__name__)

WAITS = (1, 2, 4, 8, 16)  # seconds before each further try; for dropped connections `datasets` has its own before these
_MAY_PASS = (OSError, *CONNECTION_ERRORS_TO_RETRY)
_AT_ONCE = 32  # rows that `datasets` hands over together


@dataclass(frozen=True, kw_only=True)
class Shards:
    """The shards of one split, each readable from any row on. Holds no open file, so it can be pickled.

    Args:
        files: (S,) paths or `hf://` addresses.
        stream: their rows as `datasets` streams them; its shards are these files.
    """

    files: list[str]
    stream: datasets.IterableDataset

    def rows(self, shard: int, start: int = 0) -> Iterator[tuple[int, dict]]:
        """(row number, raw row) from row `start` of one shard on; a read that fails is tried again where it failed.

        Raises: ValueError that names the file, if it stays unreadable, is missing or is damaged.
        """
        file, row, tries = self.files[shard], start, 0
        while True:
            try:
                for raw in self._read(shard, row):
                    yield row, raw
                    row, tries = row + 1, 0
                return
            except (FileNotFoundError, PermissionError) as error:
                raise ValueError(f"{file}: cannot be opened ({_reason(error)}); restore the shard.") from error
            except _MAY_PASS as error:
                if tries == len(WAITS):
                    raise ValueError(
                        f"{file}: cannot be read from row {row} on ({_reason(error)}), tried {tries + 1} times; check "
                        "the connection or the disk, then go on with --resume_from_checkpoint auto."
                    ) from error
                logger.warning("%s: reading fails (%s); once more in %d s.", file, _reason(error), WAITS[tries])
                time.sleep(WAITS[tries])
                tries += 1
            except Exception as error:  # every format's reader has errors of its own
                raise ValueError(
                    f"{file}: damaged or cut short ({_reason(error)}); fetch or write the shard again."
                ) from error

    def _read(self, shard, start):
        one = self.stream.shard(num_shards=len(self.files), index=shard).skip(start)
        # Not iter(one): in a worker of a DataLoader that gives a part of the shards only, parted by rules of its own.
        for columns in one.iter(batch_size=_AT_ONCE):
            for cells in zip(*columns.values(), strict=True):
                yield dict(zip(columns, cells, strict=True))


def tar_shards(files: list[str]) -> Shards:
    """Rows of a tar: `key`, `member`, `image` (bytes), `cls` and `txt` (as written, `None` where there is none)."""
    return Shards(files=files, stream=datasets.IterableDataset.from_generator(_samples, gen_kwargs={"shards": files}))


def parquet_shards(files: list[str], features: datasets.Features | None = None) -> Shards:
    """Rows of a parquet file: its columns; pictures as bytes."""
    try:
        patterns = [file if "://" in file else glob.escape(file) for file in files]  # as which they are read
        stream = datasets.IterableDataset.from_parquet(patterns, features=features)
    except Exception as error:  # pyarrow's, the system's or the network's
        raise ValueError(
            f"{files[0]}{', ...' if len(files) > 1 else ''}: cannot be read as parquet ({_reason(error)}); mend it."
        ) from error
    for column, feature in stream.features.items():
        if isinstance(feature, datasets.Image):
            stream = stream.cast_column(column, datasets.Image(decode=False))
    return Shards(files=files, stream=stream)


def _reason(error):
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


class _Member(tarfile.TarInfo):
    """A header that says where a broken archive ends: tarfile takes one that is garbage, or none, for the end."""

    @classmethod
    def fromtarfile(cls, archive):
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError("the archive has no proper end") from error


def _samples(shards: list[str]) -> Iterator[dict]:
    """The samples of tars that have a picture, in order. A sample's name ends at the first dot of its members.

    The reader of `datasets` for such tars takes one that was cut between two members for a whole one, and refuses a
    set whose pictures end differently; its `xopen` is what streams, with its retries.
    """
    for shard in shards:
        with xopen(shard, "rb", block_size=0) as file, tarfile.open(fileobj=file, mode="r|", tarinfo=_Member) as tar:
            sample = None
            while (member := tar.next()) is not None:
                tar.members.clear()  # else it keeps every header
                parent, slash, base = member.name.rpartition("/")
                refuse_link(member)
                if not member.isfile() or base.startswith("."):
                    continue
                stem, _, ending = base.partition(".")
                key = f"{parent}{slash}{stem}".removeprefix("./")
                if sample is None or sample["key"] != key:
                    if sample is not None and sample["image"] is not None:
                        yield sample
                    sample = {"key": key, "member": None, "image": None, "cls": None, "txt": None}
                if ending in ("cls", "txt"):
                    sample[ending] = tar.extractfile(member).read().decode("utf-8", "replace")
                elif is_picture_name(base):
                    if sample["image"] is not None:
                        raise tarfile.ReadError(f"{sample['member']} and {member.name} are two pictures of one sample")
                    sample |= {"member": member.name, "image": tar.extractfile(member).read()}
            if sample is not None and sample["image"] is not None:
                yield sample
