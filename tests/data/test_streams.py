"""Read shards of `IterableDataset`s of all kinds row by row: resumed anywhere, in workers, after reads that fail."""

import itertools
import json
import logging
import pickle

import datasets
import pytest
import torch

from modeling_clipscratch.data.columns import DataOptions
from modeling_clipscratch.data.local_files import walk_files
from modeling_clipscratch.data.sources import streams, tars
from modeling_clipscratch.data.sources.streams import shard_names, shard_rows

SIZES = [70, 33, 5]  # rows of the shards: two batches of `datasets` and a half, one and one row, less than one


def second(row):
    return {"caption": row["captions"][0]}


def is_odd(row):
    return int(row["key"][-1]) % 2 == 1


def twice(columns):
    return {name: [value for value in values for _ in range(2)] for name, values in columns.items()}


@pytest.fixture(scope="module")
def table(encode):
    count = sum(SIZES)
    columns = {"image": [{"bytes": encode((n, 0, 7)), "path": None} for n in range(count)]}
    columns |= {"captions": [[f"caption {n}"] for n in range(count)], "key": [f"{n:04d}" for n in range(count)]}
    features = {"image": datasets.Image(), "captions": datasets.List(datasets.Value("string"))}
    return datasets.Dataset.from_dict(
        columns, features=datasets.Features({**features, "key": datasets.Value("string")})
    )


@pytest.fixture(scope="module")
def tar_folder(tmp_path_factory, table, write_shard):
    folder, row = tmp_path_factory.mktemp("tars"), 0
    rows = table.cast_column("image", datasets.Image(decode=False))
    for shard, size in enumerate(SIZES):
        members = {}
        for row in range(row, row + size):  # noqa: B020
            cell = rows[row]
            members |= {
                f"{cell['key']}.png": cell["image"]["bytes"],
                f"{cell['key']}.txt": cell["captions"][0].encode(),
            }
        write_shard(folder / f"{shard}.tar", members)
        row += 1
    return folder


@pytest.fixture(scope="module")
def open_stream(tmp_path_factory, table, tar_folder):
    folder = tmp_path_factory.mktemp("parquet")
    starts = [sum(SIZES[:shard]) for shard in range(3)]
    files = [str(folder / f"{shard}.parquet") for shard in range(3)]
    for file, start, size in zip(files, starts, SIZES, strict=True):
        table.select(range(start, start + size)).to_parquet(file, batch_size=20)  # four row groups, two, one

    def of_tars():
        return tars.tar_source(tar_folder, dict(walk_files(tar_folder)), "set", DataOptions())["train"].stream()

    def of_parquet():
        return datasets.IterableDataset.from_parquet(files)

    def open_stream(kind):
        return {
            "tars": of_tars,
            "parquet": of_parquet,
            "columns": lambda: of_parquet().select_columns(["key"]),
            "map": lambda: of_tars().map(second),
            "map of parquet": lambda: of_parquet().decode(False).map(second),
            "map by batch": lambda: of_tars().map(twice, batched=True, batch_size=7),
            "filter": lambda: of_tars().filter(is_odd),
            "filter of parquet": lambda: of_parquet().filter(is_odd),
            "a table": lambda: table.to_iterable_dataset(num_shards=3),
            "a table of chosen rows": lambda: table.select(range(5, 90)).to_iterable_dataset(num_shards=3),
        }[kind]()

    return open_stream


KINDS = ["tars", "parquet", "columns", "map", "map of parquet", "map by batch", "filter", "filter of parquet"]
KINDS += ["a table", "a table of chosen rows"]


@pytest.mark.parametrize("kind", KINDS)
def test_resumed_after_any_row_gives_the_rest(kind, open_stream):
    stream = open_stream(kind)
    for shard in range(stream.num_shards):
        whole = list(shard_rows(stream, shard))
        keys = [row["key"] for row, _ in whole]
        assert len(keys) > 1 and (kind == "map by batch" or len(set(keys)) == len(keys))
        for place, (_, state) in enumerate(whole, 1):
            state = json.loads(json.dumps(state))
            rest = list(shard_rows(open_stream(kind), shard, state))
            assert [row["key"] for row, _ in rest] == keys[place:], place


@pytest.mark.parametrize("rows_a_run", [1, 7, 33])
@pytest.mark.parametrize("kind", KINDS)
def test_resumed_again_and_again_gives_each_row_once(kind, rows_a_run, open_stream):
    stream = open_stream(kind)
    keys, state = [], None
    while part := list(itertools.islice(shard_rows(stream, 0, state), rows_a_run)):
        keys += [row["key"] for row, _ in part]
        state = part[-1][1]
    assert keys == [row["key"] for row, _ in shard_rows(stream, 0)]


@pytest.mark.parametrize("kind", KINDS)
def test_shards_hold_the_rows_of_the_stream_in_order(kind, open_stream):
    stream = open_stream(kind)
    rows = [row for shard in range(stream.num_shards) for row, _ in shard_rows(stream, shard)]
    assert [row["key"] for row in rows] == [row["key"] for row in stream]


@pytest.mark.parametrize("kind", ["tars", "parquet", "a table"])
def test_images_are_not_decoded(kind, open_stream, table):
    row, _ = next(shard_rows(open_stream(kind), 0))
    assert row["image"]["bytes"] == table.cast_column("image", datasets.Image(decode=False))[0]["image"]["bytes"]


def test_shards_are_named_by_their_files(open_stream, tar_folder):
    assert shard_names(open_stream("filter")) == [str(tar_folder / f"{shard}.tar") for shard in range(3)]
    assert [name.rpartition("/")[2] for name in shard_names(open_stream("map of parquet"))] == [
        f"{shard}.parquet" for shard in range(3)
    ]
    assert shard_names(open_stream("a table")) == ["shard 0", "shard 1", "shard 2"]


class Rows(torch.utils.data.IterableDataset):
    def __init__(self, stream):
        self.stream = stream

    def __iter__(self):
        for shard in range(self.stream.num_shards):
            yield from (row["key"] for row, _ in shard_rows(self.stream, shard))


@pytest.mark.parametrize("kind", ["tars", "parquet"])
def test_a_worker_of_a_loader_reads_the_shards_that_it_is_given(kind, open_stream):
    rows = Rows(pickle.loads(pickle.dumps(open_stream(kind))))
    keys = list(torch.utils.data.DataLoader(rows, batch_size=None, num_workers=2))
    assert sorted(keys) == sorted(2 * [row["key"] for row in open_stream(kind)])


# Reads that fail


@pytest.fixture
def fail_reads(monkeypatch):
    """(times, after how many bytes) -> the opened tars' reads fail so often; returns the waits."""
    waits = []
    monkeypatch.setattr(streams.time, "sleep", waits.append)
    own = tars.xopen

    def fail(times, after=0):
        left = [times]

        def opened(*args, **options):
            file, read = own(*args, **options), 0
            file_read = file.read

            class Failing:
                def __enter__(self):
                    return self

                def __exit__(self, *_):
                    file.close()

                def read(self, size):
                    nonlocal read
                    if left[0] and read >= after:
                        left[0] -= 1
                        raise ConnectionError("Server Disconnected")
                    read += size
                    return file_read(size)

            return Failing()

        monkeypatch.setattr(tars, "xopen", opened)
        return waits

    return fail


@pytest.mark.parametrize("after", [0, 10240, 61440], ids=["at once", "in its midst", "after a batch"])
def test_read_that_fails_twice_is_tried_again_where_it_failed(open_stream, fail_reads, after, caplog):
    stream = open_stream("tars")
    keys = [row["key"] for row, _ in shard_rows(stream, 0)]
    waits = fail_reads(2, after)
    with caplog.at_level(logging.WARNING):
        assert [row["key"] for row, _ in shard_rows(stream, 0)] == keys
    assert waits == [1, 2]
    assert "0.tar: reading fails (Server Disconnected); once more in 2 s." in caplog.records[1].message


def test_read_that_always_fails_is_named_with_its_remedy(open_stream, fail_reads, tar_folder):
    stream, waits = open_stream("tars"), fail_reads(10**9)
    with pytest.raises(ValueError) as caught:
        next(shard_rows(stream, 1))
    assert str(caught.value) == (
        f"{tar_folder}/1.tar: cannot be read on (Server Disconnected), tried 6 times; check the connection or the "
        "disk, then resume with --resume_from_checkpoint auto."
    )
    assert waits == [1, 2, 4, 8, 16]


@pytest.mark.parametrize("form", ["tar", "parquet"])
def test_shard_that_went_away_or_is_damaged_is_named_at_once(form, table, write_shard, encode, tmp_path, monkeypatch):
    monkeypatch.setattr(streams.time, "sleep", lambda seconds: pytest.fail("it is tried again"))
    path = tmp_path / f"0.{form}"
    if form == "tar":
        write_shard(path, {"a.png": encode(), "a.txt": b"red"})
        stream = tars.tar_source(tmp_path, dict(walk_files(tmp_path)), "set", DataOptions())["train"].stream()
    else:
        table.to_parquet(str(path))
        stream = datasets.IterableDataset.from_parquet([str(path)])
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(ValueError, match=f"{path}: damaged or cut short"):
        list(shard_rows(stream, 0))
    path.unlink()
    with pytest.raises(ValueError, match=f"{path}: cannot be opened"):
        list(shard_rows(stream, 0))
