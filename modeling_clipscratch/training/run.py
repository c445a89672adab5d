"""Run a recipe: load the data, build the model, train it, finish the run folder."""

import logging
from dataclasses import replace
from pathlib import Path

from transformers import set_seed

from ..data.batches.captions import CaptionTable
from ..data.dataset import class_names
from ..data.load import describe_data, load_splits, open_source
from ..data.splits import NoSuchSplitError, canonical_split
from ..utils.errors import ClipScratchError
from .features.pairs import check_stream
from .optimization.device import check_processes, describe_device
from .optimization.optimizer import muon_matrices
from .optimization.sharding import whole_state_dict
from .recipe.arguments import ClipScratchTrainingArguments, DataArguments, ModelArguments
from .recipe.checks import warn_of_tower_rates
from .saving.checkpoints import check_agreement, check_fits, find_checkpoint, wants_to_resume
from .saving.run_facts import count_trained, data_facts, run_facts
from .saving.run_folder import (
    begin_run_folder,
    check_recipe_of_checkpoint,
    check_run_folder,
    finish_run_folder,
    lock_run_folder,
    open_repository_of_run,
)
from .towers.adapters import add_adapters, merge_adapters
from .towers.build import build_model, check_towers
from .trainer import ClipScratchTrainer

logger = logging.getLogger(__name__)


def train(
    model_options: ModelArguments, data: DataArguments, args: ClipScratchTrainingArguments, settings: dict
) -> dict[str, dict[str, float]]:
    """Run a recipe.

    Args:
        model_options, data, args, settings: from `parse_recipe`.

    Returns:
        {dataset: {metric: value}} on the test split; on validation if there is none, or the recipe says so.

    Raises:
        ClipScratchError: for what the user can correct.

    >>> from modeling_clipscratch.training.recipe.recipe import parse_recipe
    >>> options = ["--max_steps", "1", "--output_dir", "runs/again", "--disable_tqdm", "true"]
    >>> options += ["--text_num_layers", "1", "--vision_num_layers", "1", "--overwrite_output_dir"]
    >>> metrics = train(*parse_recipe(["digits", *options]))
    >>> sorted(metrics["digits"])[-2:]
    ['top5', 'top5_ci95']
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
    checkpoint = find_checkpoint(args.output_dir, args.resume_from_checkpoint)
    check_agreement(checkpoint, args.device)
    resume = wants_to_resume(args.resume_from_checkpoint)
    if args.should_save:
        check_run_folder(args.output_dir, settings, overwrite=args.overwrite_output_dir, resume=resume)
    notes = "" if checkpoint is None else check_recipe_of_checkpoint(Path(checkpoint), settings)
    if not args.should_log:
        logging.getLogger("modeling_clipscratch").setLevel(logging.WARNING)
    logger.info("running on %s", describe_device(args))

    set_seed(args.seed)
    if data.streaming:
        check_stream(args)
    built = check_towers(model_options)
    if args.push_to_hub and args.process_index == 0:
        args.hub_model_id = open_repository_of_run(args)  # raises before the training if it may not be written to
    warn_of_tower_rates(model_options, args)
    with args.main_process_first(desc="reading the data"):  # the others find it in the cache of `datasets`
        splits, templates, measured = _load(data, args)
    model, processor = built or build_model(model_options, _known_captions(splits["train"], templates, data.streaming))
    adapters = add_adapters(model, model_options)
    if adapters and args.gradient_checkpointing:
        raise ClipScratchError(
            "activation_checkpointing has no effect on a frozen tower with adapters; leave it out and set "
            "encode_chunk_size, which saves more memory."
        )
    trained = count_trained(model)
    trainer = ClipScratchTrainer(
        model,
        args,
        train_dataset=splits["train"],
        eval_dataset=splits.get("validation"),
        processing_class=processor,
        templates=templates,
        muon_matrices=muon_matrices(model, model_options, args.muon_learning_rate),
    )
    if adapters and trainer.is_fsdp_enabled:
        raise ClipScratchError(
            "adapters cannot be merged into weights that FSDP shards; launch with DDP "
            "(configuration/accelerate/gpu_8.yaml)."
        )
    if checkpoint is not None:
        check_fits(checkpoint, trainer)
    if args.should_save:
        trainer.recipe = begin_run_folder(args.output_dir, settings, resume=resume, notes=notes)
    trainer.train_from(checkpoint)

    metrics = {data.dataset: {}}
    if measured in splits:
        result = trainer.measure(splits[measured])
        metrics = {data.dataset: {**result.metrics, **trainer.intervals(result)}}
    merge_adapters(adapters)
    weights = whole_state_dict(trainer.accelerator, trainer.model)
    if args.should_save:
        facts = data_facts(data, splits, trainer, measured, templates)
        finish_run_folder(
            args.output_dir,
            model=trainer.accelerator.unwrap_model(trainer.model),
            weights=weights,
            processor=processor,
            state=trainer.state,
            metrics=metrics,
            facts=run_facts(model_options, facts, trainer, trained),
            draw=lambda folder: _draw_curves(trainer.state, folder),
        )
    trainer.accelerator.wait_for_everyone()
    return metrics


def _draw_curves(state, folder):
    from ..evaluation.plots.curves import plot_curves  # brings matplotlib, which is slow to import

    plot_curves(state.log_history, folder / "curves.png")


def _load(data, args):
    """{split: dataset}, the prompts, and the split to measure the finished run on.

    All splits are opened now, so that an error in the test split is raised before the training.
    """
    options = replace(data.reading(), on_bad_row=args.on_bad_row)
    source = open_source(data.dataset, options)
    measures = args.eval_strategy != "no" or data.validation_fraction > 0
    streamed = {"train": data.streaming}
    if data.streaming and "validation" not in source and args.eval_strategy != "no":
        raise ClipScratchError(
            f"{data.dataset} has no validation split, and none can be taken from a stream; to train without one, set "
            "--eval_strategy no."
        )
    if measures and ("validation" in source or not data.streaming):
        streamed["validation"] = False
    test = None if data.test_split in (None, "none", "no") else canonical_split(data.test_split)
    if test == "auto":
        test = "test" if "test" in source else None
        if test is None:
            otherwise = "validation" if "validation" in streamed else "nothing"
            logger.info("%s has no test split: the finished run is measured on %s", data.dataset, otherwise)
    if test is not None:
        streamed.setdefault(test, False)
    splits, templates = {}, None
    for streaming in (True, False):
        names = [name for name, streams in streamed.items() if streams == streaming]
        if names:
            try:
                part = load_splits(
                    source, data.dataset, options, splits=names, streaming=streaming,
                    validation_fraction=0 if data.streaming else data.validation_fraction,
                )  # fmt: skip
            except NoSuchSplitError as error:
                if test not in names or test in source:
                    raise
                raise ClipScratchError(f"{error} (Or measure on validation: --test_split none.)") from error
            splits |= part
            templates = templates or part.templates
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
