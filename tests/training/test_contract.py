"""Train on any `datasets.Dataset`, and hold every documented call of transformers' Trainer."""

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import TrainerCallback, TrainingArguments

from modeling_clipscratch import ClipScratchModel, ClipScratchTrainer, ClipScratchTrainingArguments
from modeling_clipscratch.data.columns import DataOptions
from tests.training.conftest import history, same, state_of, weights

NAMES = ["red square", "blue square", "red circle", "blue circle"]
COUNT = 24  # rows, three batches of eight
CAPTIONS = [[f"a {NAMES[row % 4]}", f"photo of the {NAMES[row % 4]}"] for row in range(COUNT)]


def pixels():
    return np.random.default_rng(0).integers(0, 256, (COUNT, 8, 8, 3), dtype=np.uint8)


def of_columns(features=None, **columns):
    """A dataset of the columns; `images` are decoded as `load_dataset` gives them."""
    table = datasets.Dataset.from_dict(columns)
    return table.cast(datasets.Features({**table.features, **(features or {})}))


def classes(images, **columns):
    label = datasets.ClassLabel(names=NAMES)
    return of_columns({"label": label}, image=images, label=[row % 4 for row in range(COUNT)], **columns)


# Ways in which a user's data look: (images, paths) -> dataset.
FORMS = {
    "class labels": lambda images, paths: classes(images),
    "words as labels": lambda images, paths: of_columns(image=images, label=[NAMES[row % 4] for row in range(COUNT)]),
    "paths": lambda images, paths: classes(paths),
    "other columns": lambda images, paths: classes(images, width=[8] * COUNT, source=["web"] * COUNT),
    "lists of captions": lambda images, paths: of_columns(image=images, captions=CAPTIONS),
    "one caption a row": lambda images, paths: of_columns(
        image=[image for image in images for _ in range(2)], caption=[text for own in CAPTIONS for text in own]
    ),
}


@pytest.fixture(scope="module")
def make_dataset(tmp_path_factory):
    """Form -> dataset of 24 images."""
    folder, images = tmp_path_factory.mktemp("images"), [Image.fromarray(image) for image in pixels()]
    paths = [str(folder / f"{row}.png") for row in range(COUNT)]
    for image, path in zip(images, paths, strict=True):
        image.save(path)
    return lambda form: FORMS[form](images, paths)


@pytest.fixture(scope="module")
def towers(make_model, word_processor, tmp_path_factory):
    """Folders of a text tower with its tokenizer and of a vision tower with its image processor."""
    folder, model = tmp_path_factory.mktemp("towers"), make_model()
    parts = {"text": word_processor.tokenizer, "vision": word_processor.image_processor}
    for side, part in parts.items():
        getattr(model, f"{side}_model").save_pretrained(folder / side)
        part.save_pretrained(folder / side)
    return {side: str(folder / side) for side in parts}


@pytest.fixture
def make(towers, make_dataset, tmp_path):
    """Form of the data, parameters of the trainer, arguments -> a trainer as the README makes it."""

    def make(form="class labels", options=None, **changes):
        torch.manual_seed(0)
        dataset = make_dataset(form)
        model, processor = ClipScratchModel.from_towers(text=towers["text"], vision=towers["vision"], freeze_text=True)
        changes = {"num_train_epochs": 2, "disable_tqdm": True, "logging_steps": 1, "eval_strategy": "epoch", **changes}
        args = ClipScratchTrainingArguments(str(tmp_path / "run"), **{"global_batch_size": 8, **changes})
        given = {"train_dataset": dataset, "eval_dataset": dataset, "processing_class": processor, **(options or {})}
        given = {"model": None if "model_init" in given else model, "args": args, **given}
        return ClipScratchTrainer(**given)

    return make


@pytest.mark.parametrize(
    ("form", "streamed"), [*((form, False) for form in FORMS), ("words as labels", True), ("lists of captions", True)]
)
def test_sample_of_the_readme_trains_on_any_form_of_data(towers, make_dataset, tmp_path, hub, form, streamed):
    whole = make_dataset(form)
    dataset = datasets.DatasetDict(train=whole, validation=whole)
    changes, options = {"eval_strategy": "epoch"}, {}
    if streamed:
        dataset["train"] = whole.to_iterable_dataset(num_shards=3)
        changes = {"max_steps": 6, "eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 3, "save_steps": 3}
        options = {"options": DataOptions(class_names=NAMES)} if form == "words as labels" else {}

    model, processor = ClipScratchModel.from_towers(text=towers["text"], vision=towers["vision"], freeze_text=True)
    args = ClipScratchTrainingArguments(str(tmp_path / "run"), global_batch_size=8, num_train_epochs=2, **changes)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    trainer = ClipScratchTrainer(
        model, args, train_dataset=dataset["train"], eval_dataset=dataset["validation"], processing_class=processor,
        **options,
    )  # fmt: skip
    output = trainer.train()
    metrics = trainer.evaluate()

    assert output.global_step == 6
    main = "text_to_image_recall@5" if "caption" in form else "top1"
    low, high = metrics[f"eval_{main}_ci95"]
    assert 0 <= low <= metrics[f"eval_{main}"] <= high <= 1
    assert trainer.args.metric_for_best_model == main
    after = model.state_dict()
    for name in ("text_model.transformer.layer.0.ffn.lin1.weight", "visual_projection.weight"):
        assert torch.equal(before[name], after[name]) == name.startswith("text_model")
    assert {path.name for path in (tmp_path / "run").glob("checkpoint-*")} == {"checkpoint-3", "checkpoint-6"}
    if form == "class labels" and not streamed:
        trainer.push_to_hub()
        assert "model.safetensors" in hub.repos["model", "you/run"].files("main")


def test_equal_rows_map_style_and_streamed_are_measured_alike(make, make_dataset):
    trainer, dataset = make(), make_dataset("class labels")
    metrics = trainer.evaluate()
    assert trainer.evaluate(dataset.to_iterable_dataset(num_shards=3)) == metrics
    assert make(options={"eval_dataset": dataset.to_iterable_dataset()}).evaluate() == metrics


@pytest.mark.parametrize("form", ["class labels", "lists of captions"])
def test_prediction_has_the_embeddings_and_the_metrics_with_intervals(make, make_dataset, form):
    trainer = make(form)
    output, metrics = trainer.predict(make_dataset(form)), trainer.evaluate()
    images, texts = output.predictions
    assert images.shape == (COUNT, 512) and texts.shape == (4 if output.label_ids is not None else 2 * COUNT, 512)
    assert {name.replace("test_", "eval_", 1): value for name, value in output.metrics.items()} | {
        "epoch": 0
    } == metrics
    assert (output.label_ids is None) == (form != "class labels")
    if form == "class labels":
        assert metrics["eval_top1"] == ((images @ texts.T).argmax(axis=1) == output.label_ids).mean()


@pytest.mark.parametrize("changes", [{}, {"metric_for_best_model": "b_top1"}], ids=["the first", "named"])
def test_evaluation_data_of_several_names_are_measured_and_one_chooses_the_checkpoint(make, make_dataset, changes):
    dataset, best = make_dataset("class labels"), changes.get("metric_for_best_model", "a_top1")
    trainer = make(options={"eval_dataset": {"a": dataset, "b": dataset.select(range(8))}}, **changes)
    trainer.train()
    assert trainer.args.metric_for_best_model == best
    metrics = trainer.evaluate()
    assert {"eval_a_top1", "eval_b_top1", "eval_a_top1_ci95"} < metrics.keys()
    assert metrics["eval_a_top1"] == trainer.evaluate(dataset)["eval_top1"] == trainer.evaluate("a")["eval_top1"]
    assert trainer.state.best_metric == metrics[f"eval_{best}"]


def test_second_training_of_a_stream_starts_at_its_first_row(make, make_dataset, monkeypatch):
    stream = make_dataset("class labels").to_iterable_dataset(num_shards=3)
    trainer, samples = make(options={"train_dataset": stream}, max_steps=2, eval_strategy="no"), []
    take = trainer.stream.take
    monkeypatch.setattr(trainer.stream, "take", lambda batch: (samples.append(batch["sample"]), take(batch)))
    trainer.train()
    trainer.train()
    assert torch.equal(torch.cat(samples[:2]), torch.cat(samples[2:])) and not torch.equal(samples[0], samples[1])


@pytest.mark.parametrize("streamed", [False, True])
def test_run_is_resumed_to_the_same_bits_and_a_finished_one_makes_no_step(make, make_dataset, tmp_path, streamed):
    changes, options = {"save_total_limit": 5, "eval_strategy": "no", "save_strategy": "steps", "save_steps": 2}, {}
    if streamed:
        changes["max_steps"], options["train_dataset"] = 6, make_dataset("class labels").to_iterable_dataset(3)
    first = make(options=options, **changes)
    first.train()
    last = tmp_path / "run" / "checkpoint-6"
    last.rename(tmp_path / "gone")
    assert make(options=options, **changes).train(resume_from_checkpoint=True).global_step == 6
    assert same(weights(last), weights(tmp_path / "gone"))
    assert history(last, "loss") == history(tmp_path / "gone", "loss") and len(history(last, "loss")) == 6

    trainer, steps = make(options=options, **changes), []
    trainer.training_step = lambda *args: steps.append(args)
    finished = trainer.train(resume_from_checkpoint=True)
    assert (finished.global_step, steps) == (6, [])
    assert same(trainer.model.state_dict(), weights(last))


def test_search_trains_each_trial_with_its_own_batch_in_its_own_folder(make, towers, tmp_path):
    optuna = pytest.importorskip("optuna")

    def model_init():
        torch.manual_seed(0)
        return ClipScratchModel.from_towers(text=towers["text"], vision=towers["vision"], freeze_text=True)[0]

    space = {"global_batch_size": [4, 12], "learning_rate": [2e-3], "seed": [5]}
    trainer = make(options={"model_init": model_init}, num_train_epochs=1)
    best = trainer.hyperparameter_search(
        lambda trial: {name: trial.suggest_categorical(name, values) for name, values in space.items()},
        n_trials=2, sampler=optuna.samplers.GridSampler(space, seed=0),
    )  # fmt: skip
    steps, objectives = {}, []
    for trial in range(2):
        [checkpoint] = (tmp_path / "run" / f"run-{trial}").glob("checkpoint-*")
        state = state_of(checkpoint)
        settings = state["stateful_callbacks"]["TrainingRecord"]["attributes"]["settings"]
        size = int(settings["global_batch_size"])
        assert (settings["learning_rate"], settings["seed"], trainer.sampler.seed) == ("0.002", "5", 5)
        steps[size] = state["global_step"]
        assert history(checkpoint, "images_seen")[0] == size
        objectives.append(history(checkpoint, "eval_top1")[-1])
    assert steps == {4: 6, 12: 2}
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"run-0", "run-1"}
    assert best.objective == max(objectives) == objectives[int(best.run_id)]


def test_captions_train_a_model_that_is_measured_on_classes_and_the_arguments_serve_twice(make, make_dataset):
    dataset = make_dataset("class labels")
    trainer = make(
        "lists of captions", options={"eval_dataset": {"classes": dataset, "own": make_dataset("lists of captions")}}
    )
    assert trainer.args.metric_for_best_model == "classes_top1"
    trainer.train()
    assert {"eval_classes_top1", "eval_own_text_to_image_recall@1"} < trainer.evaluate().keys()
    args = ClipScratchTrainingArguments(trainer.args.output_dir, global_batch_size=8, disable_tqdm=True)
    for form, metric in (("class labels", "top1"), ("lists of captions", "text_to_image_recall@5")):
        given = {"train_dataset": make_dataset(form), "eval_dataset": make_dataset(form)}
        other = ClipScratchTrainer(trainer.model, args, **given, processing_class=trainer.processing_class)
        assert other.args.metric_for_best_model == metric


def test_callbacks_receive_every_event(make):
    class Events(TrainerCallback):
        seen = []

        def on_log(self, args, state, control, logs=None, **kwargs):
            self.seen.extend(name for name in ("loss", "eval_top1") if name in logs)

        def on_save(self, args, state, control, **kwargs):
            self.seen.append("save")

        def on_predict(self, args, state, control, metrics, **kwargs):
            self.seen.append("predict")

    trainer = make(options={"callbacks": [Events]}, num_train_epochs=1)
    trainer.train()
    trainer.predict(trainer.eval_dataset)
    assert Events.seen == ["loss"] * 3 + ["eval_top1", "save", "predict"]


WRONG = {  # what is given instead: parameters of the trainer (dataset -> value); and the sentence
    "plain arguments": (
        {"args": lambda dataset: TrainingArguments("run")},
        "^args is a TrainingArguments; give ClipScratchTrainingArguments, which take the same fields",
    ),
    "model and processor as the model": (
        {"model": lambda dataset: (1, 2)}, "^model is a tuple; give a ClipScratchModel .from_towers returns it",
    ),
    "a list": (
        {"train_dataset": lambda dataset: [{"image": 1}]},
        "^train_dataset is a list; give a datasets.Dataset or IterableDataset with an image column",
    ),
    "all splits": (
        {"train_dataset": lambda dataset: datasets.DatasetDict(train=dataset, test=dataset)},
        "^train_dataset is a DatasetDict; give a datasets.Dataset .* one split of what load_dataset",
    ),
    "no processor": (
        {"processing_class": lambda dataset: None},
        "^processing_class is missing; give the model's processor, which has a tokenizer and an image processor",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong_use_is_one_sentence_with_its_remedy(make, make_dataset, case, tmp_path):
    given, sentence = WRONG[case]
    options = {name: value(make_dataset("class labels")) for name, value in given.items()}
    with pytest.raises(ValueError, match=sentence) as refused:
        if "args" in options:
            ClipScratchTrainer(**options)
        else:
            make(options=options)
    assert "\n" not in str(refused.value) and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda trainer: trainer.train(),
            "^train_dataset is missing; give the Trainer a datasets.Dataset to train on.",
        ),
        (lambda trainer: trainer.evaluate(), "^eval_dataset is missing; give one to the Trainer or to evaluate()."),
        (lambda trainer: trainer.evaluate([1]), "^eval_dataset is a list; give a datasets.Dataset"),
        (lambda trainer: trainer.predict(None), "^eval_dataset is a NoneType; give a datasets.Dataset"),
    ],
)
def test_call_that_lacks_its_data_is_one_sentence(make, call, sentence):
    trainer = make(options={"train_dataset": None, "eval_dataset": None})
    with pytest.raises(ValueError, match=sentence):
        call(trainer)
