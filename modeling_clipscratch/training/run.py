"""Run a recipe: load the data, build the model, train it, finish the run folder."""

import logging
from dataclasses import replace
from functools import partial
from pathlib import Path

from transformers import set_seed

from ..data.batches.captions import CaptionTable
from ..data.dataset import class_names
from ..data.load import describe_data, load_splits, open_source
from ..data.splits import canonical_split
from ..utils.errors import ClipScratchError
from ..utils.hub_commit import open_repository
from .optimization.device import check_processes, choose_attention
from .optimization.optimizer import muon_matrices
from .recipe.arguments import ClipScratchTrainingArguments, DataArguments, ModelArguments
from .recipe.checks import warn_of_tower_rates
from .saving.checkpoints import check_fits, check_settings, find_checkpoint
from .saving.run_folder import begin_run_folder, check_run_folder, finish_run_folder, lock_run_folder, run_facts
from .towers.adapters import add_adapters, merge_adapters
from .towers.build import build_model, check_towers
from .trainer import ClipScratchTrainer

logger = logging.getLogger(__name__)


def train(
    model_options: ModelArguments, data: DataArguments, args: ClipScratchTrainingArguments, settings: dict
) -> dict[str, dict[str, float]]:
    """Run what `parse_recipe` returned.

    The result is {dataset: {metric: value}} on the test split; on validation if there is none, or the recipe says so.
    """
    check_processes(args)
    with lock_run_folder(args.output_dir, writes=args.should_save):
        return _train(model_options, data, args, settings)


def _train(model_options, data, args, settings):
    if data.dataset is None:
        raise ClipScratchError(
            "dataset is missing; give --dataset (a folder, file, Hub id, digits or scenes), or a recipe."
        )
    settings = {**settings, "global_batch_size": args.global_batch_size}  # a resumed run may have other processes
    options = {name: str(value) for part in (model_options, data) for name, value in vars(part).items()}
    del options["test_split"]  # what is measured may change
    checkpoint = find_checkpoint(args.output_dir, args.resume_from_checkpoint)
    if args.should_save:
        check_run_folder(args, checkpoint)
    if checkpoint is not None:
        check_settings(checkpoint, options)
    if not args.should_log:
        logging.getLogger("modeling_clipscratch").setLevel(logging.WARNING)
    attention = choose_attention(args.attention, precision=args.precision, use_cpu=args.use_cpu)
    processes = f"{args.world_size} processes on " if args.world_size > 1 else ""
    logger.info("running on %s%s, %s, %s attention", processes, args.device.type, args.precision, attention)

    set_seed(args.seed)
    built = check_towers(model_options)
    if args.push_to_hub and args.process_index == 0:
        args.hub_model_id = open_repository(  # raises before the training if it may not be written to
            args.hub_model_id or Path(args.output_dir).absolute().name,
            private=args.hub_private_repo,
            revision=args.hub_revision,
            token=args.hub_token,
        )
    warn_of_tower_rates(model_options, args)
    with args.main_process_first(desc="reading the data"):  # the others find it in the cache of `datasets`
        splits, templates, measured = _load(data, args)
    model, processor = built or build_model(model_options, _known_captions(splits["train"], templates, data.streaming))
    adapters = add_adapters(model, model_options)
    trainer = ClipScratchTrainer(
        model,
        args,
        train_dataset=splits["train"],
        eval_dataset=splits.get("validation"),
        processing_class=processor,
        templates=templates,
        muon_matrices=muon_matrices(model, model_options, args.muon_learning_rate),
    )
    trainer.record.settings |= options
    if checkpoint is not None:
        check_fits(checkpoint, trainer)
    if args.should_save:
        begin_run_folder(args.output_dir, settings, checkpoint)
    trainer.train_from(checkpoint)

    metrics = {data.dataset: trainer.measure_as("", splits[measured])[1] if measured in splits else {}}
    facts = run_facts(model_options, data, trainer, splits, templates, measured)
    merge_adapters(adapters)
    if args.should_save:
        finish_run_folder(trainer, metrics, facts)
    trainer.accelerator.wait_for_everyone()
    return metrics


def _load(data, args):
    """Return {split: dataset}, the prompts, and the split to measure the finished run on, which is opened too."""
    options = replace(data.reading(), on_bad_row=args.on_bad_row)
    source = open_source(data.dataset, options)
    if data.streaming and "validation" not in source and args.eval_strategy != "no":
        raise ClipScratchError(
            f"{data.dataset} has no validation split, and none can be taken from a stream; to train without one, set "
            "--eval_strategy no."
        )
    measures = args.eval_strategy != "no" or data.validation_fraction > 0
    names = ["validation"] if measures and ("validation" in source or not data.streaming) else []
    test = None if data.test_split in (None, "none", "no") else canonical_split(data.test_split)
    if test == "auto":
        test = "test" if "test" in source else None
        if test is None:
            logger.info("%s has no test split: the finished run is measured on validation, if any", data.dataset)
    names += [] if test is None else [test]
    load = partial(load_splits, source, data.dataset, options)
    if data.streaming:
        splits = load(splits=["train"], streaming=True, validation_fraction=0)
        others = load(splits=names, validation_fraction=0) if names else splits
    else:
        others = splits = load(splits=["train", *names], validation_fraction=data.validation_fraction)
    splits, templates = {**others, **splits}, splits.templates or others.templates
    for line in describe_data(splits):
        logger.info(line)
    classes = class_names(splits["train"])
    if classes is not None and len(classes) < 2:
        raise ClipScratchError(
            f"{data.dataset} has one class, {classes[0]!r}, and training needs two; give the folder whose sub-folders "
            "are the classes, or captions (metadata.csv)."
        )
    return splits, templates, test or "validation"


def _known_captions(train, templates, streamed):
    """The captions whose words a new tokenizer gets; `None` if they are in the rows of a stream."""
    if templates:
        return CaptionTable.of_classes(class_names(train), templates).texts
    return None if streamed else CaptionTable.of(train).texts
