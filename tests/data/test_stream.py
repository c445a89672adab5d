"""Tiny tars and parquet files go in; which rows their streams give, in which order, once each, and after what, is held.

A colour stands for a row: pictures are of one colour, and `group` or `sample` would not tell rows apart.
"""

import logging
import pickle
from collections import Counter
from itertools import islice

import datasets
import pytest
import torch
from modeling_clipscratch.data.stream import open_stream
from modeling_clipscratch.data.streamed_batches import StreamedPairs
from modeling_clipscratch.data.streamed_rows import StreamSource
from modeling_clipscratch.data.streamed_shards import Shards

from modeling_clipscratch.data import streamed_shards
from modeling_clipscratch.data.captions import CaptionTable, TokenTable
from modeling_clipscratch.data.columns import Columns
from modeling_clipscratch.data.pixels import Preprocess
from modeling_clipscratch.data.randomness import key_ids, sample_ids
from modeling_clipscratch.training.stream_state import StreamStates


def colour(number):
    return (number % 200, number // 200, 7)


def row_numbers(batch):
    return [int(red) + 200 * int(green) for red, green, _ in batch["images"][:, 0, 0].tolist()]


@pytest.fixture(scope="module")
def write_tars(write_shard, encode):
    """(folder, sizes of the train shards) -> folder of a caption set; row n is a picture of colour n."""

    def write(folder, sizes):
        number = 0
        for shard, size in enumerate(sizes):
            members = {}
            for _ in range(size):
                key = f"s{number:04d}"
                members |= {f"{key}.png": encode(colour(number)), f"{key}.txt": b"a red square\na blue circle"}
                number += 1
            write_shard(folder / "train" / f"{shard}.tar", members)
        (folder / "dataset_type.txt").write_text("retrieval")
        return folder

    return write


@pytest.fixture(scope="module")
def open_pairs(word_processor):
    """(folder or Hub id, settings) -> `StreamedPairs` of its train split."""

    def make(path, *, columns=None, **settings):
        source, _ = open_stream(str(path), columns or Columns())
        words = {"tokenizer": word_processor.tokenizer}
        if source.kind == "class":
            captions = CaptionTable.of_classes(source.class_names, source.templates)
            words = {"captions": captions, "tokens": TokenTable(captions.texts, word_processor.tokenizer, 12)}
        defaults = {"batch_size": 3, "seed": 0, "shuffle_rows": 4}
        preprocess = Preprocess(word_processor.image_processor)
        return StreamedPairs(source, preprocess=preprocess, **{**defaults, **words, **settings})

    return make


def same(first, second):
    tensors = [{name: value for name, value in batch.items() if name != "stream"} for batch in (first, second)]
    return tensors[0].keys() == tensors[1].keys() and all(
        torch.equal(tensor, tensors[1][name]) for name, tensor in tensors[0].items()
    )


def load(pairs, workers):
    """As the trainer's loader makes it; its batches are without an end."""
    return torch.utils.data.DataLoader(pairs, batch_size=None, num_workers=workers)


def epochs_by_slot(open_pairs, path, *, processes, workers, epochs=2, **settings):
    """[epoch] -> rows that all slots gave in it, in order; whole epochs only, from real workers, a row a batch."""
    found = [[] for _ in range(epochs)]
    for process in range(processes):
        pairs = open_pairs(path, process=process, processes=processes, workers=workers, batch_size=1, **settings)
        done = set()
        for batch in load(pairs, workers if workers > 1 else 0):
            state = batch["stream"]["state"]
            if state["epoch"] < epochs:
                found[state["epoch"]] += row_numbers(batch)
            else:
                done.add(state["worker"])
                if len(done) == workers:
                    break
    return found


# What is read


def test_tars_of_captions_are_read(write_tars, open_pairs, tmp_path):
    pairs = open_pairs(write_tars(tmp_path, [5, 4]))
    batch = next(iter(pairs))
    assert pairs.source.kind == "caption" and batch["images"].shape == (3, 8, 8, 3)
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (3, 5)  # [CLS] a red square [SEP]
    keys = [f"{row // 5}/s{row:04d}" for row in row_numbers(batch)]
    assert torch.equal(batch["sample"], sample_ids(key_ids(keys), seed=0, epoch=0))
    assert len(set(batch["group"].tolist())) == 1  # the same two captions
    assert batch["may_flip"].tolist() == [True] * 3


def test_tars_of_classes_are_read(write_class_set, open_pairs, tmp_path):
    pairs = open_pairs(write_class_set(tmp_path), batch_size=4)
    assert pairs.source.class_names == ["red", "deep blue"] and len(pairs.source.shards.files) == 2
    batch = next(iter(pairs))
    assert [batch["images"][batch["group"] == label][0, 0, 0].tolist() for label in (0, 1)] == [
        [255, 0, 0],
        [0, 0, 255],
    ]
    assert sorted(batch["group"].tolist()) == [0, 0, 1, 1]


def test_cached_states_of_prompts_go_with_their_classes(write_class_set, open_pairs, tmp_path):
    states = torch.arange(4.0)[:, None]  # two classes of two prompts each
    pairs = open_pairs(write_class_set(tmp_path), batch_size=4, tokens=None, text_states=states)
    batch = next(iter(pairs))
    assert "input_ids" not in batch
    assert torch.equal(batch["text_states"][:, 0].long() // 2, batch["group"])
    assert pairs.largest_batch(2)["text_states"].shape == (2, 1)


@pytest.fixture(scope="module")
def write_parquet(encode):
    def write(folder, sizes, *, group_size=2, labels=None):
        folder.mkdir(parents=True, exist_ok=True)
        features = {"image": datasets.Image(), "caption": datasets.List(datasets.Value("string"))}
        if labels:
            features = {"image": datasets.Image(), "label": labels}
        number = 0
        for shard, size in enumerate(sizes):
            numbers = range(number, number + size)
            columns = {"image": [{"bytes": encode(colour(n)), "path": None} for n in numbers]}
            words = {"label": [n % 2 for n in numbers]} if labels else {"caption": [["a photo"]] * size}
            table = datasets.Dataset.from_dict(columns | words, features=datasets.Features(features))
            table.to_parquet(str(folder / f"train-{shard}.parquet"), batch_size=group_size)
            number += size
        return folder

    return write


def test_parquet_is_read_and_its_classes_are_known(write_parquet, open_pairs, tmp_path):
    pairs = open_pairs(write_parquet(tmp_path, [4], labels=datasets.ClassLabel(names=["a_cat", "dog"])), batch_size=4)
    assert pairs.source.class_names == ["a cat", "dog"]
    batch = next(iter(pairs))
    assert batch["group"].tolist() == [row % 2 for row in row_numbers(batch)]


def test_a_side_in_the_caption_forbids_the_mirror(write_shard, encode, open_pairs, tmp_path):
    write_shard(tmp_path / "train" / "0.tar", {"a.png": encode(), "a.txt": b"a square left of a circle"})
    assert next(iter(open_pairs(tmp_path, batch_size=1)))["may_flip"].tolist() == [False]


def test_long_captions_are_cut_and_that_is_said_once(write_shard, encode, open_pairs, tmp_path, caplog):
    write_shard(tmp_path / "train" / "0.tar", {"a.png": encode(), "a.txt": b"red " * 40})
    pairs = open_pairs(tmp_path, batch_size=2)
    states = StreamStates(pairs)
    for batch in islice(iter(pairs), 3):
        states.take(batch)
        assert batch["input_ids"].shape == (2, 12)
    assert [record.message for record in caplog.records] == [
        "captions longer than the 12 tokens that the text tower reads are cut."
    ]


def test_a_stream_can_be_sent_to_a_worker_that_is_not_forked(write_tars, write_parquet, open_pairs, tmp_path):
    for folder in (write_tars(tmp_path / "tars", [5]), write_parquet(tmp_path / "parquet", [5])):
        pairs = open_pairs(folder)
        assert same(next(iter(pickle.loads(pickle.dumps(pairs)))), next(iter(pairs)))


# Each row once


@pytest.mark.parametrize("sizes", [[5, 9, 7, 6], [11, 10, 9, 8, 12, 7, 13], [40], [23, 17], [2] * 19],
                         ids=["as many shards as slots", "some left over", "one", "two", "many"])  # fmt: skip
def test_each_row_comes_once_an_epoch_over_two_processes_of_two_workers(write_tars, open_pairs, tmp_path, sizes):
    epochs = epochs_by_slot(open_pairs, write_tars(tmp_path, sizes), processes=2, workers=2)
    for rows in epochs:
        assert sorted(rows) == list(range(sum(sizes)))


def test_each_row_of_parquet_comes_once_an_epoch(write_parquet, open_pairs, tmp_path):
    folder = write_parquet(tmp_path / "pairs [2024]", [7, 3, 8])  # no pattern
    epochs = epochs_by_slot(open_pairs, folder, processes=2, workers=2)
    assert [sorted(rows) for rows in epochs] == [list(range(18))] * 2


def test_left_over_shards_do_not_burden_one_slot(write_tars, open_pairs, tmp_path):
    pairs = open_pairs(write_tars(tmp_path, [1] * 5), processes=2, workers=2)
    dealt = [pairs.deal(slot, 0) for slot in range(4)]
    assert [len(shards) for shards in dealt] == [2] * 4 and len({shards[-1] for shards in dealt}) == 1
    assert all([shared for _, shared in shards] == [False, True] for shards in dealt)


def test_left_over_shards_go_to_another_slot_in_each_epoch_where_there_are_many(write_tars, open_pairs, tmp_path):
    pairs = open_pairs(write_tars(tmp_path, [1] * 17), processes=2, workers=2)
    assert [[len(pairs.deal(slot, epoch)) for slot in range(4)] for epoch in (0, 1)] == [[5, 4, 4, 4], [4, 4, 4, 5]]


def test_batches_are_full_across_the_ends_of_epochs_and_draw_for_each_row_s_own_epoch(write_tars, open_pairs, tmp_path):
    pairs = open_pairs(write_tars(tmp_path, [5]), batch_size=4)
    batches = list(islice(iter(pairs), 5))
    rows = [row for batch in batches for row in row_numbers(batch)]
    assert [Counter(rows[first : first + 5]) for first in (0, 5, 10, 15)] == [Counter(range(5))] * 4
    ids = key_ids([f"0/s{row:04d}" for row in rows])
    expected = torch.cat([sample_ids(ids[5 * epoch : 5 * epoch + 5], seed=0, epoch=epoch) for epoch in range(4)])
    assert torch.equal(torch.cat([batch["sample"] for batch in batches]), expected)


def test_order_differs_between_epochs_and_seeds_and_is_the_same_when_repeated(write_tars, open_pairs, tmp_path):
    folder = write_tars(tmp_path, [10, 10, 10])
    zero, one, again = (
        epochs_by_slot(open_pairs, folder, processes=1, workers=1, seed=seed, shuffle_rows=8) for seed in (0, 1, 0)
    )
    assert zero == again
    assert zero[0] != zero[1] and zero[0] != one[0]
    assert zero[0] != sorted(zero[0])
    assert max(zero[0][:8]) - min(zero[0][:8]) < 20  # a block is of neighbours: of one shard, or two


def test_too_many_readers_are_refused(write_tars, open_pairs, tmp_path):
    pairs = open_pairs(write_tars(tmp_path, [3]), process=3, processes=4)
    with pytest.raises(ValueError, match=r"reader 4 of 4 .*found no row in a whole epoch; set dataloader_num_workers"):
        StreamStates(pairs).take(next(iter(pairs)))


# Resuming


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [0, 1, 2, 4])
def test_resumed_after_any_batch_equals_the_uninterrupted_stream(write_tars, open_pairs, tmp_path, workers):
    folder = write_tars(tmp_path / "set", [5, 7, 4])  # 16 rows: 3 epochs are 16 batches of 3
    settings = {"workers": max(workers, 1), "processes": 2}
    straight = list(islice(load(open_pairs(folder, **settings), workers), 12))
    states = StreamStates(open_pairs(folder, **settings))
    for consumed, batch in enumerate(straight[:10]):
        states.save(tmp_path)
        resumed = StreamStates(open_pairs(folder, **settings))
        resumed.load(tmp_path)
        resumed.pairs.states = list(resumed.queue)
        rest = list(islice(load(resumed.pairs, workers), 2))
        assert all(same(*pair) for pair in zip(rest, straight[consumed : consumed + 2], strict=True)), consumed
        states.take(dict(batch))


def test_parquet_resumes_in_the_middle_of_a_row_group(write_parquet, open_pairs, tmp_path):
    folder = write_parquet(tmp_path, [7, 6], group_size=3)
    straight = list(islice(iter(open_pairs(folder)), 12))
    for consumed in range(1, 10):
        pairs = open_pairs(folder)
        pairs.states = [straight[consumed - 1]["stream"]["state"]]
        assert same(next(iter(pairs)), straight[consumed]), consumed


@pytest.mark.parametrize("change, sentence", [
    ({"workers": 3}, r"written by 2 readers a process \(dataloader_num_workers\), not 3"),
    ({"processes": 2}, "written by 1 processes, not 2"),
])  # fmt: skip
def test_other_readers_than_before_are_refused(write_tars, open_pairs, tmp_path, change, sentence):
    folder = write_tars(tmp_path / "set", [5, 7])
    StreamStates(open_pairs(folder, workers=2)).save(tmp_path)
    with pytest.raises(ValueError, match=sentence):
        StreamStates(open_pairs(folder, **{"workers": 2, **change})).load(tmp_path)


def test_other_shards_than_before_are_refused(write_tars, open_pairs, tmp_path):
    StreamStates(open_pairs(write_tars(tmp_path / "set", [5, 7]))).save(tmp_path)
    with pytest.raises(ValueError, match="no longer those that the run began with"):
        StreamStates(open_pairs(write_tars(tmp_path / "set", [5, 7, 1]))).load(tmp_path)


def test_checkpoint_of_a_run_that_did_not_stream_is_refused(write_tars, open_pairs, tmp_path):
    with pytest.raises(ValueError, match="not written by a streamed run"):
        StreamStates(open_pairs(write_tars(tmp_path / "set", [5]))).load(tmp_path)


# Memory


def test_no_more_rows_are_held_than_one_block(write_tars, open_pairs, tmp_path, monkeypatch):
    class Held(dict):
        now = most = 0

        def __init__(self, row):
            super().__init__(row)
            Held.now += 1
            Held.most = max(Held.most, Held.now)

        def __del__(self):
            Held.now -= 1

    own = streamed_shards.Shards.rows
    monkeypatch.setattr(
        streamed_shards.Shards, "rows", lambda *given: ((number, Held(row)) for number, row in own(*given))
    )
    pairs = open_pairs(write_tars(tmp_path, [40, 30, 30]), shuffle_rows=16, batch_size=5)
    for _ in islice(iter(pairs), 60):
        assert Held.now <= 16
    assert 16 <= Held.most <= 17  # the row in hand, while the last of a block is read


# Broken pictures and failing reads


@pytest.fixture
def broken_set(write_shard, encode, tmp_path):
    members = {f"s{n}.{end}": data for n in range(4) for end, data in (("png", encode(colour(n))), ("txt", b"a photo"))}
    write_shard(tmp_path / "broken" / "train" / "0.tar", members | {"s2.png": b"no picture"})
    return tmp_path / "broken"


@pytest.mark.parametrize("workers", [0, 2])
def test_broken_picture_stops_the_stream_with_its_name(broken_set, open_pairs, workers):
    pairs = open_pairs(broken_set, workers=max(workers, 1))
    states = StreamStates(pairs)
    with pytest.raises(ValueError, match=r"^\S*/train/0.tar: s2.png: cannot be decoded .* remove its row.$"):
        for batch in islice(load(pairs, workers), 8):
            states.take(batch)


def test_broken_picture_is_skipped_for_the_next_row_and_said_once(broken_set, open_pairs, caplog):
    pairs = open_pairs(broken_set, on_bad_image="skip")
    states = StreamStates(pairs)
    with caplog.at_level(logging.WARNING):
        for batch in islice(iter(pairs), 6):
            states.take(batch)
            assert sorted(row_numbers(batch)) == [0, 1, 3]
    assert [record.message.split(": cannot")[0].split("/")[-1] for record in caplog.records] == ["0.tar: s2.png"]


def test_set_of_broken_pictures_only_does_not_spin_for_ever(write_shard, open_pairs, tmp_path):
    write_shard(tmp_path / "train" / "0.tar", {"a.png": b"", "a.txt": b"a photo"})
    word = next(iter(open_pairs(tmp_path, on_bad_image="skip")))["stream"]
    assert "none of its pictures can be read" in word["error"] and "a.png" in word["error"]


# What is not streamed


@pytest.mark.parametrize("dataset", ["digits", "scenes"])
def test_built_in_sets_are_not_streamed(dataset):
    with pytest.raises(
        ValueError, match=f"^{dataset}: is of a form that is not streamed; leave streaming out, or give"
    ):
        open_stream(dataset, Columns())


def test_other_forms_are_not_streamed(tmp_path, encode):
    (tmp_path / "train.csv").write_text("image,caption\na.png,a photo\n")
    with pytest.raises(ValueError, match=r"train.csv, which is not streamed"):
        open_stream(str(tmp_path), Columns())
    with pytest.raises(ValueError, match=r"train.csv, which is not streamed"):
        open_stream(str(tmp_path / "train.csv"), Columns())
    (tmp_path / "pictures" / "cat").mkdir(parents=True)
    (tmp_path / "pictures" / "cat" / "0.png").write_bytes(encode())
    with pytest.raises(ValueError, match=r"of a form that is not streamed"):
        open_stream(str(tmp_path / "pictures"), Columns())


def test_parquet_of_paths_and_unnamed_classes_are_refused(tmp_path, write_parquet):
    table = datasets.Dataset.from_dict({"file_name": ["a.png"], "caption": ["a photo"]})
    (tmp_path / "paths").mkdir()
    table.to_parquet(str(tmp_path / "paths" / "train.parquet"))
    with pytest.raises(ValueError, match="holds paths; a stream needs the pictures themselves"):
        open_stream(str(tmp_path / "paths"), Columns())
    write_parquet(tmp_path / "numbers", [2], labels=datasets.Value("int64"))
    with pytest.raises(ValueError, match="give their names in label order"):
        open_stream(str(tmp_path / "numbers"), Columns())


@pytest.mark.parametrize(
    ("cells", "numbers", "sentence"),
    [
        ({"image": {"bytes": b"x"}, "label": -1}, None, "row 7: label -1 has no class name; 2 names are known"),
        ({"image": {"bytes": b"x"}, "label": 2}, None, "row 7: label 2 has no class name"),
        ({"image": {"bytes": b"x"}, "label": None}, None, "row 7: has no label in column 'label'"),
        ({"image": {"bytes": b"x"}, "label": "ox"}, {"a": 0, "b": 1}, "row 7: label 'ox' is not among the 2 class"),
        ({"image": {"bytes": None}, "label": 1}, None, "row 7: has no picture in column 'image'"),
    ],
)
def test_row_that_lacks_what_it_needs_is_named(cells, numbers, sentence):
    about = {"name": "set", "kind": "class", "columns": ("image", [], "label"), "class_names": ["a", "b"]}
    source = StreamSource(**about, numbers=numbers, shards=Shards(files=["0.parquet"], stream=None))
    with pytest.raises(ValueError, match=f"0.parquet: {sentence}"):
        source.row(cells, 0, 7)


def test_row_of_words_has_the_number_of_its_class():
    about = {"name": "set", "kind": "class", "columns": ("image", [], "label"), "class_names": ["a", "b"]}
    source = StreamSource(**about, numbers={"a": 0, "b": 1}, shards=Shards(files=["0.parquet"], stream=None))
    row = source.row({"image": {"bytes": b"x"}, "label": "b"}, 0, 7)
    assert (row.label, row.captions) == (1, None)


def test_row_without_a_caption_is_refused():
    about = {"name": "set", "kind": "caption", "columns": ("image", ["text"], None)}
    source = StreamSource(**about, shards=Shards(files=["0.parquet"], stream=None))
    with pytest.raises(ValueError, match="row 7: has no caption; every row needs at least one"):
        source.row({"image": {"bytes": b"x"}, "text": " "}, 0, 7)
