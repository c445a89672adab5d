"""Make batches of streams of all kinds: each row once an epoch, in which order, resumed anywhere.

A color stands for a row: images are of one color.
"""

from itertools import islice

import datasets
import pytest
import torch
from datasets.distributed import split_dataset_by_node
from PIL import Image

from modeling_clipscratch.data.batches import stream_batches
from modeling_clipscratch.data.batches.captions import CaptionTable, TokenTable
from modeling_clipscratch.data.batches.map_batches import PairDataset, TextSide
from modeling_clipscratch.data.batches.stream_batches import StreamedPairs, StreamedRows
from modeling_clipscratch.data.columns import DataOptions
from modeling_clipscratch.data.dataset import class_names, prepare_dataset
from modeling_clipscratch.data.images.preprocess import Preprocess
from modeling_clipscratch.data.load import load_data
from modeling_clipscratch.training.saving.stream_state import StreamStates
from tests.data.conftest import color

SIZES = [5, 7, 4]  # rows of the shards; three epochs are 16 batches of 3
TWO_CAPTIONS = ["a red square", "a blue circle"]
CLASSES = {"class_names": ["cat", "dog"]}


def row_numbers(batch):
    return [int(red) + 200 * int(green) for red, green, _ in batch["images"][:, 0, 0].tolist()]


def same(first, second):
    names = first.keys() - {"stream"}
    return names == second.keys() - {"stream"} and all(torch.equal(first[name], second[name]) for name in names)


def positives(batch):
    """Which rows of a batch share a link."""
    links = batch["links"]
    return (links[:, None, :, None] == links[None, :, None, :]).any(-1).any(-1)


def error_of(batches):
    """The message that ends a stream."""
    states = StreamStates(batches)
    with pytest.raises(ValueError) as caught:
        for batch in islice(iter(batches), 30):
            states.take(batch)
    return str(caught.value)


def load(pairs, workers):
    """As the trainer's loader makes it; its batches are without an end."""
    return torch.utils.data.DataLoader(pairs, batch_size=None, num_workers=workers)


def epochs_by_slot(make_pairs, stream, *, processes, workers, **settings):
    """[epoch] -> rows that all slots yield in it, in order; two epochs, from real workers, a row a batch."""
    rows = [[], []]
    for process in range(processes):
        pairs = make_pairs(stream, process=process, processes=processes, workers=workers, batch_size=1, **settings)
        done = set()
        for batch in load(pairs, workers if workers > 1 else 0):
            state = batch["stream"]["state"]
            if state["epoch"] < 2:
                rows[state["epoch"]] += row_numbers(batch)
            else:
                done.add(state["worker"])
                if len(done) == workers:
                    break
    return rows


@pytest.fixture(scope="module")
def make_pairs(word_processor):
    """(stream, or folder whose train split it is; options) -> `StreamedPairs`."""

    def make(stream, options=None, templates=("a photo of a {}",), **settings):
        options = options or {}
        if not isinstance(stream, datasets.IterableDataset):
            data = load_data(stream, splits=["train"], streaming=True, **options)
            stream, templates = data["train"], data.templates
        rows, captions = StreamedRows(stream, DataOptions(**options)), None
        texts = {"tokenizer": word_processor.tokenizer}
        if rows.class_names is not None:
            captions = CaptionTable.of_classes(rows.class_names, templates)
            texts = {"tokens": TokenTable(captions.texts, word_processor.tokenizer, 12)}
        texts = TextSide(seed=settings.get("seed", 0), **texts)
        settings = {"batch_size": 3, "seed": 0, "shuffle_rows": 4, **settings}
        return StreamedPairs(rows, texts, captions, preprocess=Preprocess(word_processor.image_processor), **settings)

    return make


@pytest.fixture(scope="module")
def stream_of(make_table):
    """(rows, shards) -> a stream of as many rows."""
    return lambda rows, shards=1: make_table(caption=["red"] * rows).to_iterable_dataset(num_shards=shards)


@pytest.fixture(scope="module")
def streams(tmp_path_factory, make_table, write_shards):
    """kind -> the same 16 rows as a stream."""
    rows = range(sum(SIZES))
    table = make_table(captions=[TWO_CAPTIONS] * len(rows), key=[f"s{n:04d}" for n in rows])
    tars, files = write_shards(tmp_path_factory.mktemp("streams"), table, SIZES, batch_size=3)
    files, table = files.rename(files.parent / "parquet [2024]"), table.remove_columns("key")  # no pattern

    def generate(numbers):
        for number in numbers:
            yield {"image": Image.new("RGB", (6, 4), color(number)), "caption": TWO_CAPTIONS}

    parquet, plain = load_data(files, streaming=True)["train"], table.to_iterable_dataset(num_shards=3)
    indexed = load_data(tars, validation_fraction=0)["train"]
    more = make_table(caption=[TWO_CAPTIONS] * (sum(SIZES) + 9)).to_iterable_dataset(num_shards=4)
    return {
        "tars": load_data(tars, streaming=True)["train"],
        "parquet": parquet,
        "table": plain,
        "indexed tars": indexed.to_iterable_dataset(num_shards=3),
        "map to PIL images": plain.map(lambda row: {"image": row["image"].transpose(Image.Transpose.ROTATE_180)}),
        "map": parquet.map(lambda row: {"captions": row["captions"]}, features=parquet.features),
        "filter": more.filter(lambda row: row["image"].getpixel((0, 0))[0] < sum(SIZES)),
        "generator": datasets.IterableDataset.from_generator(generate, gen_kwargs={"numbers": list(rows)}),
        "formatted": plain.with_format("torch"),
    }


KINDS = ["tars", "parquet", "table", "indexed tars", "map to PIL images", "map", "filter", "generator", "formatted"]

# Each row once


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_any_stream_come_once_an_epoch_and_resume_after_any_batch(streams, make_pairs, kind):
    stream, rows = streams[kind], list(range(sum(SIZES)))
    assert [sorted(epoch) for epoch in epochs_by_slot(make_pairs, stream, processes=2, workers=1)] == [rows] * 2
    straight = list(islice(iter(make_pairs(stream)), 12))
    for consumed in (1, 4, 5, 6, 10):
        pairs = make_pairs(stream)
        pairs.states = [straight[consumed - 1]["stream"]["state"]]
        assert same(next(iter(pairs)), straight[consumed]), consumed


@pytest.mark.parametrize("rows, shards", [(27, 4), (70, 7), (40, 1), (38, 19)])
def test_each_row_comes_once_an_epoch_over_four_processes(stream_of, make_pairs, rows, shards):
    epochs = epochs_by_slot(make_pairs, stream_of(rows, shards), processes=4, workers=1)
    assert [sorted(epoch) for epoch in epochs] == [list(range(rows))] * 2


@pytest.mark.parametrize("count, lengths, last_are_split", [
    (5, ([2, 2, 2, 2], [2, 2, 2, 2]), True),  # a shard too many burdens no slot
    (17, ([5, 4, 4, 4], [4, 4, 4, 5]), False),  # where there are many, it goes to another slot in each epoch
])  # fmt: skip
def test_shards_left_over_are_dealt_evenly(stream_of, make_pairs, count, lengths, last_are_split):
    pairs = make_pairs(stream_of(count, count), processes=2, workers=2)
    assert tuple([len(pairs.deal(slot, epoch)) for slot in range(4)] for epoch in (0, 1)) == lengths
    lasts = [pairs.deal(slot, 0)[-1] for slot in range(4)]
    assert [is_split for _, is_split in lasts] == [last_are_split] * 4
    assert len({shard for shard, _ in lasts}) == (1 if last_are_split else 4)


def test_order_differs_between_epochs_and_seeds_and_is_the_same_when_repeated(stream_of, make_pairs):
    zero, one, again = (
        epochs_by_slot(make_pairs, stream_of(30, 3), processes=1, workers=1, seed=seed, shuffle_rows=8)
        for seed in (0, 1, 0)
    )
    assert zero == again
    assert zero[0] != zero[1] and zero[0] != one[0] and zero[0] != sorted(zero[0])
    assert max(zero[0][:8]) - min(zero[0][:8]) < 20  # a block is of neighbours: of one shard, or two


def test_no_more_rows_are_in_memory_than_one_block(stream_of, make_pairs, monkeypatch):
    class Held(dict):
        now = most = 0

        def __init__(self, row):
            super().__init__(row)
            Held.now += 1
            Held.most = max(Held.most, Held.now)

        def __del__(self):
            Held.now -= 1

    own = stream_batches.shard_rows
    monkeypatch.setattr(stream_batches, "shard_rows", lambda *args: ((Held(row), state) for row, state in own(*args)))
    for _ in islice(iter(make_pairs(stream_of(100, 3), shuffle_rows=16, batch_size=5)), 60):
        assert Held.now <= 16
    assert 16 <= Held.most <= 17  # the row in hand, while the last of a block is read


# Resuming


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize(
    "workers", [1, pytest.param(2, marks=pytest.mark.slow), pytest.param(4, marks=pytest.mark.slow)]
)
def test_readers_resume_in_turn_after_any_batch(streams, make_pairs, tmp_path, workers):
    settings = {"workers": workers, "processes": 2}
    straight = list(islice(load(make_pairs(streams["tars"], **settings), workers), 10))
    states = StreamStates(make_pairs(streams["tars"], **settings))
    for consumed, batch in enumerate(straight[:8]):
        states.save(tmp_path)
        resumed = StreamStates(make_pairs(streams["tars"], **settings))
        resumed.load(tmp_path)
        resumed.pairs.states = list(resumed.queue)
        rest = list(islice(load(resumed.pairs, workers), 2))
        assert all(same(*pair) for pair in zip(rest, straight[consumed : consumed + 2], strict=True)), consumed
        states.take(dict(batch))


@pytest.mark.parametrize("saved, resumed, message", [
    ("tars", {"workers": 3}, "written by .*2.*, not 3"),
    ("tars", {"processes": 2}, "written by .*1.*, not 2"),
    ("parquet", {}, "shards"),
])  # fmt: skip
def test_other_readers_and_other_shards_than_before_raise(streams, make_pairs, tmp_path, saved, resumed, message):
    StreamStates(make_pairs(streams[saved], workers=2)).save(tmp_path)
    with pytest.raises(ValueError, match=message):
        StreamStates(make_pairs(streams["tars"], **{"workers": 2, **resumed})).load(tmp_path)


# What a batch holds


@pytest.mark.parametrize("kind", ["captions", "classes"])
def test_batches_over_the_ends_of_epochs_are_those_of_a_map_style_dataset_with_the_same_keys(
    make_table, make_pairs, word_processor, kind
):
    text = {"caption": [[*TWO_CAPTIONS, f"left {n}"] for n in range(5)]}
    table = make_table(key=[f"k{n}" for n in range(5)], **(text if kind == "captions" else {"label": [0, 1, 0, 1, 1]}))
    if kind == "classes":
        table = table.cast_column("label", datasets.ClassLabel(names=["red square", "left"]))
    stream, table, templates = (
        table.to_iterable_dataset(num_shards=2),
        prepare_dataset(table),
        ("a photo of a {}", "{}"),
    )
    captions = CaptionTable.of(table, templates)
    texts = TextSide(seed=3, tokens=TokenTable(captions.texts, word_processor.tokenizer, 12))
    plain = PairDataset(table, captions, texts, preprocess=Preprocess(word_processor.image_processor))
    flips = set()
    for number, batch in enumerate(islice(iter(make_pairs(stream, templates=templates, batch_size=4, seed=3)), 10)):
        expected = plain.__getitems__([((4 * number + n) // 5, row) for n, row in enumerate(row_numbers(batch))])
        assert torch.equal(positives(batch), positives(expected))
        assert same({**batch, "links": expected["links"]}, expected)
        flips.update(batch["may_flip"].tolist())
    assert flips == {False, True}


@pytest.mark.parametrize("images, captions, keys, expected", [
    ([0, 0, 1], ["a", "b", "c"], None, [[1, 1, 0], [1, 1, 0], [0, 0, 1]]),
    ([0, 0, 1], ["a", "b", "c"], ["x", "y", "z"], [[1, 1, 0], [1, 1, 0], [0, 0, 1]]),
    ([0, 1, 2], ["a", "a ", "c"], ["x", "y", "z"], [[1, 1, 0], [1, 1, 0], [0, 0, 1]]),
    ([0, 1, 2], [["a", "b"], ["b"], ["c"]], [1, 2, 3], [[1, 1, 0], [1, 1, 0], [0, 0, 1]]),
    ([0, 1, 2], ["['a', 'b']", '["b"]', "c"], None, [[1, 1, 0], [1, 1, 0], [0, 0, 1]]),
    ([0, 1, 2], ["a", "b", "c"], None, [[1, 0, 0], [0, 1, 0], [0, 0, 1]]),
], ids=["an image", "an image of several keys", "a caption", "one of several", "lists as text", "nothing"])  # fmt: skip
def test_rows_of_one_image_or_with_a_shared_caption_are_positives(
    tmp_path, make_table, make_pairs, encode, images, captions, keys, expected
):
    columns = {"image": [{"bytes": encode(color(image)), "path": None} for image in images], "caption": captions}
    columns |= {"key": keys} if keys else {}
    make_table(**columns).to_parquet(str(tmp_path / "train.parquet"))
    for stream in (tmp_path, make_table(**columns).to_iterable_dataset()):
        assert positives(next(iter(make_pairs(stream, shuffle_rows=1)))).int().tolist() == expected


# Columns

CATS = ["cat ", "dog", " cat", "dog"]


@pytest.mark.parametrize("columns, options, names", [
    ({"label": CATS}, CLASSES, ["cat", "dog"]),
    ({"label": [0, 1, 0, 1]}, CLASSES, ["cat", "dog"]),
    ({"kind": [1, 0, 0, 1], "text": [*"abcd"]}, {"label_column": "kind", **CLASSES}, ["cat", "dog"]),
    ({"cls": [1, 1, 0, 0]}, {"templates": ["the {}"]}, ["a cat", "dog"]),
    ({"label": [1, 0, 1, 0]}, {}, ["a cat", "dog"]),
    ({"label": CATS, "note": [*"abcd"]}, {"caption_column": "note"}, None),
    ({"sentence_1": ["a", None, "c", "d"], "sentence_2": ["e", "f", "", "h"]}, {}, None),
], ids=["words", "numbers", "a named label", "another column of labels", "labels", "a named caption",
        "several captions"])  # fmt: skip
def test_columns_are_read_alike_plain_and_streamed(tmp_path, make_table, make_pairs, columns, options, names):
    table = make_table(**columns)
    if names == ["a cat", "dog"]:
        table = table.cast_column(next(iter(columns)), datasets.ClassLabel(names=["a_cat", "dog"]))
    table.to_parquet(str(tmp_path / "train.parquet"))
    options = {"cache_dir": str(tmp_path / "cache"), **options}
    data = load_data(tmp_path, splits=["train"], validation_fraction=0, **options)
    for pairs in (make_pairs(tmp_path, options), make_pairs(table.to_iterable_dataset(), options)):
        rows = [pairs.rows.row(raw, 0, number) for number, raw in enumerate(pairs.rows.stream)]
        assert pairs.rows.class_names == names == class_names(data["train"])
        assert [text for *_, text in rows] == data["train"]["label" if names else "captions"][:]
    assert load_data(tmp_path, splits=["train"], streaming=True, **options).templates == data.templates


def test_paths_of_a_streamed_table_are_relative_to_its_folder_or_to_another(tmp_path, make_pairs, encode):
    names = [f"images/{n}.png" for n in range(3)]
    for first, folder in ((0, tmp_path / "table"), (10, tmp_path / "else")):
        (folder / "images").mkdir(parents=True)
        for n, name in enumerate(names):
            (folder / name).write_bytes(encode(color(first + n)))
    table, elsewhere = tmp_path / "table" / "train.parquet", {"image_root": str(tmp_path / "else")}
    datasets.Dataset.from_dict({"file_name": names, "caption": ["red"] * 3}).to_parquet(str(table))
    for first, options in ((0, {}), (10, elsewhere)):
        assert sorted(row_numbers(next(iter(make_pairs(table, options))))) == [first, first + 1, first + 2]
    (tmp_path / "else" / names[1]).unlink()
    assert f"{tmp_path}/else/images/1.png: there is no such image" in error_of(make_pairs(table, elsewhere))


@pytest.mark.parametrize("change, message", [
    (lambda stream: split_dataset_by_node(stream, 0, 2), "was split by node; give the whole stream"),
    (lambda stream: stream.shuffle(seed=0, buffer_size=10), "leave `shuffle` out: --stream_shuffle_rows shuffles"),
    (lambda stream: datasets.interleave_datasets([stream.shuffle(seed=0)] * 2), "was shuffled with a buffer"),
    (lambda stream: stream.take(0).map(lambda row: row), "no rows; choose another split"),
    (lambda stream: stream.batch(2), "no image among the columns"),
], ids=["split by node", "a buffer", "a buffer below", "no rows", "batches"])  # fmt: skip
def test_streams_that_cannot_be_resumed_or_read_raise(streams, make_pairs, change, message):
    with pytest.raises(ValueError, match=message):
        make_pairs(change(streams["table"]))


# Bad rows


@pytest.mark.parametrize("cells, message", [
    ({"image": b"no image"}, "row 1: cannot be decoded"),
    ({"image": None}, "row 1: has no image; remove the row."),
    ({"caption": None}, "row 1: has no caption; every row needs one."),
    ({"caption": " \n"}, "row 1: has no caption"),
    ({"caption": "[]"}, "row 1: has no caption"),
    ({"label": None}, "row 1: has no label; every row needs one of the 2"),
    ({"label": " "}, "row 1: has no label"),
    ({"label": -1}, "row 1: has label -1; every row needs one"),
    ({"label": 2}, "row 1: label 2 is not one of the 2 classes."),
    ({"label": "ox"}, "row 1: label 'ox' is not one of the 2 classes."),
])  # fmt: skip
def test_bad_rows_stop_a_stream_or_are_left_out_and_counted(
    tmp_path, make_table, make_pairs, encode, caplog, cells, message
):
    name, bad = next(iter(cells.items()))
    good = {"caption": "a red", "label": "cat" if isinstance(bad, str) else 0}.get(name)
    images = [bad if n == 1 and name == "image" else encode(color(n)) for n in range(4)]
    columns = {"caption": ["a red"] * 4} if name == "image" else {name: [good, bad, good, good]}
    columns["image"] = [{"bytes": image, "path": None} for image in images]
    make_table(**columns).to_parquet(str(tmp_path / "train.parquet"))
    options = CLASSES if name == "label" else {}
    for workers in (0, 1) if name == "image" else (0,):  # an exception of a worker would reach the user as a traceback
        pairs = make_pairs(tmp_path, options, batch_size=1)
        errors = [batch["stream"].get("error", "") for batch in islice(load(pairs, workers), 4)]
        where = "split train" if bad in (2, "ox") else f"{tmp_path}/train.parquet"
        assert any(f"{where}: {message}" in error for error in errors)
    pairs = make_pairs(tmp_path, {**options, "on_bad_row": "skip"}, on_bad_row="skip")
    states = StreamStates(pairs)
    for batch in islice(iter(pairs), 11):
        states.take(batch)
        assert sorted(row_numbers(batch)) == [0, 2, 3]
    assert states.skipped in (10, 11)  # once an epoch
    first, tenth = [record.message for record in caplog.records if "left out" in record.message]
    message = "row 1: has no label" if bad in (2, "ox") else message  # the label has no place among the classes
    assert first.startswith("1 rows") and message in first and tenth.startswith("10 rows")


@pytest.mark.parametrize("captions, settings, message", [
    ([None, "", " "], {"on_bad_row": "skip"}, "the dataset: no row can be used; shard 0: row 1: has no caption; every"),
    (["red"] * 3, {"process": 3, "processes": 4}, "the dataset: reader 4 of 4 (processes x workers) found no row in a"),
])  # fmt: skip
def test_reader_without_a_row_does_not_spin_forever(make_table, make_pairs, captions, settings, message):
    assert error_of(make_pairs(make_table(caption=captions).to_iterable_dataset(), **settings)).startswith(message)
