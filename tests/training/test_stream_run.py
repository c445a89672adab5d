"""Run recipes that stream tiny tars: to their end, resumed, and with options that raise."""

import logging
import tarfile
from itertools import count, islice

import datasets
import pytest

from modeling_clipscratch.data.batches.stream_batches import StreamedPairs
from modeling_clipscratch.data.load import load_data
from modeling_clipscratch.training.recipe.recipe import parse_recipe
from modeling_clipscratch.training.run import train
from modeling_clipscratch.training.trainer import ClipScratchTrainer
from tests.training.conftest import same, state_of, weights

# Twenty rows are two and a half batches, so a batch straddles epochs; blocks of six are cut by most batches.
STREAMED = {
    "streaming": True, "stream_shuffle_rows": 6, "per_device_train_batch_size": 8, "freeze_text": False,
    "max_steps": 6, "save_strategy": "steps", "save_steps": 1, "save_total_limit": 20, "eval_strategy": "no",
    "test_split": "none", "metric_for_best_model": None,
}  # fmt: skip


@pytest.fixture(scope="module")
def classes(tmp_path_factory, write_shard, encode):
    """A set of two classes: three train shards of 20 rows, a test shard, no validation."""
    folder, numbers = tmp_path_factory.mktemp("classes"), count()
    for split, sizes in {"train": (7, 9, 4), "test": (4,)}.items():
        for shard, size in enumerate(sizes):
            members = {}
            for number in islice(numbers, size):
                members[f"s{number}.cls"] = str(number % 2).encode()
                members[f"s{number}.png"] = encode((10 * number, 200 * (number % 2), 0))
            write_shard(folder / split / f"{shard}.tar", members)
    (folder / "classnames.txt").write_text("red\ngreen\n")
    (folder / "zeroshot_classification_templates.txt").write_text("a {c} thing.\nall {c}.\n")
    return folder


@pytest.fixture(scope="module")
def straight(run_recipe, classes, tmp_path_factory):
    """workers -> folder of an uninterrupted run with a checkpoint after each of its six steps."""
    done = {}

    def run(workers):
        if workers not in done:
            folder = tmp_path_factory.mktemp("straight")
            changes = {"dataset": str(classes), "dataloader_num_workers": workers}
            done[workers] = run_recipe(folder, **STREAMED, **changes)[0]
        return done[workers]

    return run


@pytest.mark.parametrize("workers, step", [(0, 4), (2, 1)])
def test_run_that_stopped_resumes_to_the_same_bits(straight, run_recipe, classes, tmp_path, workers, step):
    changes = {**STREAMED, "dataset": str(classes), "dataloader_num_workers": workers}
    checkpoint = straight(workers) / f"checkpoint-{step}"
    resumed, _ = run_recipe(tmp_path, **changes, resume_from_checkpoint=str(checkpoint))
    for folder in ("checkpoint-5", "checkpoint-6", "."):
        assert same(weights(resumed / folder), weights(straight(workers) / folder)), folder
    logs = [state_of(run)["log_history"] for run in (straight(workers), resumed)]
    kept = [[{name: line.get(name) for name in ("step", "epoch", "loss")} for line in log] for log in logs]
    assert kept[0][:-1] == kept[1][:-1] and len(kept[0]) == 7  # the last line is of the time taken


def test_same_command_resumes_the_run_by_itself(straight, run_recipe, classes, tmp_path, monkeypatch):
    """Stopped by the third batch's failure, and started again with the same command."""
    own, taken = StreamedPairs._batch, []

    def fails(self, *given):
        taken.append(1)
        if len(taken) == 4:
            raise ValueError("the disk went away")
        return own(self, *given)

    changes = {**STREAMED, "dataset": str(classes), "dataloader_num_workers": 0, "resume_from_checkpoint": "auto"}
    monkeypatch.setattr(StreamedPairs, "_batch", fails)
    with pytest.raises(ValueError, match="^the disk went away$"):
        run_recipe(tmp_path, **changes)
    resumed, _ = run_recipe(tmp_path, **changes)
    assert same(weights(resumed), weights(straight(0)))
    assert len(taken) == 4 + 3  # steps one to three were not taken again


def test_other_workers_are_refused_for_a_stream(straight, run_recipe, classes, tmp_path):
    folder = straight(2).parent
    changes = {**STREAMED, "dataset": str(classes), "resume_from_checkpoint": "auto"}
    with pytest.raises(ValueError, match="was written by a stream of workers=2, not 1, .* dataloader_num_workers"):
        run_recipe(folder, **changes, dataloader_num_workers=0)


def test_frozen_text_tower_is_cached_and_the_run_is_tested(run_recipe, classes, tmp_path):
    changes = {**STREAMED, "dataset": str(classes), "freeze_text": True, "test_split": "test", "max_steps": 2}
    folder, metrics = run_recipe(tmp_path, **changes)
    assert 0 <= metrics[str(classes)]["top1"] <= 1
    assert [path.name[:5] for path in (tmp_path / "cache").iterdir()] == ["text-"]


@pytest.mark.parametrize("changes, sentence", [
    ({"eval_strategy": "steps", "eval_steps": 1}, "has no validation split, .* set --eval_strategy no"),
    ({"max_steps": -1}, "num_train_epochs has no use; set max_steps"),
    ({"stream_shuffle_rows": 0}, "stream_shuffle_rows=0 is not above 0"),
    ({"test_split": "testing2"}, "has no split 'testing2'; it has: train, test. "),
    ({"dataset": "digits"}, "digits: .* is not streamed"),
])  # fmt: skip
def test_option_that_a_stream_does_not_support_is_refused_before_anything_is_written(
    run_recipe, classes, tmp_path, changes, sentence
):
    with pytest.raises(ValueError, match=sentence):
        run_recipe(tmp_path, **{**STREAMED, "dataset": str(classes), **changes})
    assert not (tmp_path / "run").exists()


@pytest.fixture
def captions(tmp_path, write_shard, encode):
    """A caption set of one shard."""
    members = {}
    for number in range(8):
        members[f"s{number}.png"] = encode("black")
        members[f"s{number}.txt"] = f"a thing\nthe thing number {number}".encode()
    return write_shard(tmp_path / "captions" / "train" / "0.tar", members).parents[1]


def test_words_of_a_streamed_caption_set_come_from_a_named_tokenizer(run_recipe, captions, word_processor, tmp_path):
    changes = {**STREAMED, "dataset": str(captions), "max_steps": 2}
    with pytest.raises(ValueError, match=r"not known where they are streamed; name a tokenizer \(--tokenizer\)"):
        run_recipe(tmp_path / "none", **changes)
    word_processor.tokenizer.save_pretrained(tmp_path / "tokenizer")
    _, metrics = run_recipe(tmp_path / "named", **changes, tokenizer=str(tmp_path / "tokenizer"))
    assert metrics == {str(captions): {}}  # neither validation nor test


def test_broken_image_that_is_skipped_is_named_once_in_a_run(run_recipe, classes, tmp_path, write_shard, caplog):
    with tarfile.open(classes / "train" / "0.tar") as tar:
        members = {member.name: tar.extractfile(member).read() for member in tar}
    folder = write_shard(tmp_path / "set" / "train" / "0.tar", {**members, "s3.png": b"broken"}).parents[1]
    (folder / "classnames.txt").write_text("red\ngreen\n")
    changes = {**STREAMED, "dataset": str(folder), "dataloader_num_workers": 2, "max_steps": 4}
    with caplog.at_level(logging.WARNING, logger="modeling_clipscratch"):
        run_recipe(tmp_path, **changes, on_bad_row="skip")
    assert len([record for record in caplog.records if "0.tar: s3.png" in record.message]) == 1
    with pytest.raises(ValueError, match=r"^\S*0.tar: s3.png: cannot be decoded \(.*\); replace .*row\.$"):
        train(*parse_recipe([str(tmp_path / "recipe.yaml"), "--output_dir", str(tmp_path / "other"),
                             "--on_bad_row", "raise"]))  # fmt: skip


def test_run_on_tars_is_the_run_on_the_same_rows_as_a_plain_stream(captions, make_trainer, monkeypatch):
    tars = load_data(captions, streaming=True)["train"]
    plain = datasets.Dataset.from_list(list(tars), features=tars.features).to_iterable_dataset()
    batches, own = [], ClipScratchTrainer.compute_loss

    def kept(trainer, model, inputs, **options):
        batches.append(inputs)
        return own(trainer, model, inputs, **options)

    monkeypatch.setattr(ClipScratchTrainer, "compute_loss", kept)
    losses = []
    for stream in (tars, plain):
        options = {"train_dataset": stream, "eval_dataset": None, "templates": None}
        losses.append(make_trainer(options=options, per_device_train_batch_size=3).train().training_loss)
    assert len(batches) == 4 and losses[0] == losses[1]
    for one, other in zip(batches[:2], batches[2:], strict=True):
        assert one.keys() == {"images", "input_ids", "attention_mask", "links", "sample", "may_flip"} and same(
            one, other
        )
