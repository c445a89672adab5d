"""Read shards of streams of all kinds row by row: resumed anywhere, and in workers."""

import json

import datasets
import pytest

from modeling_clipscratch.data.columns import DataOptions
from modeling_clipscratch.data.sources import tars
from modeling_clipscratch.data.sources.streams import shard_names, shard_rows
from modeling_clipscratch.utils.local_files import walk_files

SIZES = [70, 33, 5]  # rows of the shards: two batches of `datasets` and a half, one and one row, less than one


def second(row):
    return {"caption": row["captions"][0]}


def is_odd(row):
    return int(row["key"][-1]) % 2 == 1


def twice(columns):
    return {name: [value for value in values for _ in range(2)] for name, values in columns.items()}


@pytest.fixture(scope="module")
def table(make_table):
    rows = range(sum(SIZES))
    return make_table(captions=[[f"caption {n}"] for n in rows], key=[f"{n:04d}" for n in rows])


@pytest.fixture(scope="module")
def folders(tmp_path_factory, table, write_shards):
    """Of tars and of parquet files, of four row groups, two and one."""
    return write_shards(tmp_path_factory.mktemp("shards"), table, SIZES, batch_size=20)


@pytest.fixture(scope="module")
def open_stream(table, folders):
    def of_tars():
        return tars.tar_source(folders[0], dict(walk_files(folders[0])), "set", DataOptions())["train"].stream()

    def of_parquet():
        return datasets.IterableDataset.from_parquet([str(folders[1] / f"train-{shard}.parquet") for shard in range(3)])

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
def test_shards_hold_the_rows_in_order_and_resumed_after_any_give_the_rest(kind, open_stream):
    stream, in_order = open_stream(kind), []
    for shard in range(stream.num_shards):
        whole = list(shard_rows(stream, shard))
        keys = [row["key"] for row, _ in whole]
        in_order += keys
        assert len(keys) > 1 and (kind == "map by batch" or len(set(keys)) == len(keys))
        for place in {1, 2, 20, 32, 33, len(whole) - 1, len(whole)} & {*range(1, len(whole) + 1)}:
            rest = list(shard_rows(open_stream(kind), shard, json.loads(json.dumps(whole[place - 1][1]))))
            assert [row["key"] for row, _ in rest] == keys[place:], place
            assert not rest or [row["key"] for row, _ in shard_rows(stream, shard, rest[0][1])] == keys[place + 1 :]
    assert in_order == [row["key"] for row in stream]


@pytest.mark.parametrize("kind", ["tars", "parquet", "a table"])
def test_images_are_not_decoded(kind, open_stream, table):
    row, _ = next(shard_rows(open_stream(kind), 0))
    assert row["image"]["bytes"] == table.cast_column("image", datasets.Image(decode=False))[0]["image"]["bytes"]


def test_shards_are_named_by_their_files(open_stream, folders):
    assert shard_names(open_stream("filter")) == [f"{folders[0]}/train/{shard}.tar" for shard in range(3)]
    names = [name.rpartition("/")[2] for name in shard_names(open_stream("map of parquet"))]
    assert names == [f"train-{shard}.parquet" for shard in range(3)]
    assert shard_names(open_stream("a table")) == ["shard 0", "shard 1", "shard 2"]


# Reads that fail


def test_read_that_fails_is_named_with_its_remedy(open_stream, folders, monkeypatch):
    def fail(*args, **options):
        raise ConnectionError("Server Disconnected")

    stream = open_stream("tars")
    monkeypatch.setattr(tars, "xopen", fail)
    with pytest.raises(ValueError) as caught:
        next(shard_rows(stream, 1))
    assert str(caught.value) == (
        f"{folders[0]}/train/1.tar: cannot be read (Server Disconnected); check disk and connection, or fetch it "
        "again (git lfs pull, if it is a Git LFS pointer), then resume with --resume_from_checkpoint auto."
    )


@pytest.mark.parametrize("form", ["tar", "parquet"])
def test_shard_that_is_missing_or_damaged_is_named(form, table, write_shard, encode, tmp_path):
    path = tmp_path / f"0.{form}"
    if form == "tar":
        write_shard(path, {"a.png": encode(), "a.txt": b"red"})
        stream = tars.tar_source(tmp_path, dict(walk_files(tmp_path)), "set", DataOptions())["train"].stream()
    else:
        table.to_parquet(str(path))
        stream = datasets.IterableDataset.from_parquet([str(path)])
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(ValueError, match=f"{path}: cannot be read"):
        list(shard_rows(stream, 0))
    path.unlink()
    with pytest.raises(ValueError, match=f"{path}: cannot be read"):
        list(shard_rows(stream, 0))
