"""A folder of tar shards, or the names in it, goes in; the shards in order, none missing, come out."""

import tarfile
from collections.abc import Sequence
from pathlib import Path

from .local_files import check_regular
from .pictures import is_picture_name


def shard_files(split_folder: Path) -> list[Path]:
    """The shards of one split in order; the file that says how many there are has the last word."""
    names = [path.name for path in split_folder.glob("*.tar") if is_shard_name(path.name)]
    files = [split_folder / name for name in shard_names(names, split_folder / "nshards.txt")]
    for file in files:
        check_regular(file)
    return files


def is_shard_name(name: str) -> bool:
    """Not macOS's `._0.tar`, which holds no pictures."""
    return name.endswith(".tar") and not name.startswith(".")


def refuse_link(member: tarfile.TarInfo) -> None:
    """Raises: tarfile.ReadError for a picture that has no bytes of its own: GNU tar links what is there twice."""
    if (member.islnk() or member.issym()) and is_picture_name(member.name.rpartition("/")[2]):
        raise tarfile.ReadError(f"{member.name} is a link to {member.linkname}; tar --hard-dereference writes pictures")


def shard_names(present: Sequence[str], count_file: Path) -> list[str]:
    """The names in the order of their numbers.

    Raises: ValueError if the count file is no number, or a shard that it counts is missing.

    >>> shard_names(["10.tar", "2.tar"], Path("no such file"))
    ['2.tar', '10.tar']
    """
    if not count_file.exists():
        return sorted(present, key=lambda name: (len(name), name))  # 2 before 10
    check_regular(count_file)
    written = count_file.read_text(encoding="utf-8-sig").strip()
    if not written.isdigit() or int(written) == 0:
        raise ValueError(f"{count_file}: {written!r} is not a number of shards; write how many there are.")
    names = [f"{number}.tar" for number in range(int(written))]
    missing = next((name for name in names if name not in set(present)), None)
    if missing is not None:
        where = count_file.with_name(missing)
        raise ValueError(f"{where}: is missing, one of {written} shards; fetch it or correct {count_file.name}.")
    return names
