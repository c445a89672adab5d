"""A parsed recipe goes in; a trained run folder and its metrics come out. The data's way, from top to bottom."""

import logging
from pathlib import Path

import numpy as np
from transformers import set_seed

from ..data.batches import PairDataset
from ..data.captions import CaptionTable, TokenTable
from ..data.load import open_splits
from ..data.pixels import Preprocess
from ..data.splits import NoSuchSplitError, read_split
from ..evaluation.evaluate_rows import evaluate_rows
from ..evaluation.intervals import confidence_intervals
from ..hub.towers_clipscratch import is_fixed
from .adapters import add_adapters, merge_adapters
from .arguments import ClipScratchTrainingArguments, DataArguments, ModelArguments
from .attention import choose_attention, set_attention
from .augmentation import build_augment
from .build import build_model, check_towers
from .checkpoints import check_agreement, check_fits, find_checkpoint, wants_to_resume
from .checks import settle_metric
from .device import check_processes, describe_device
from .drop import add_drops
from .facts import count_trained, data_facts, run_facts
from .gather import local_process_count
from .optimizer import muon_matrices
from .push import open_for_pushes
from .run_folder import (
    begin_run_folder,
    check_recipe_of_checkpoint,
    check_run_folder,
    finish_run_folder,
    lock_run_folder,
)
from .sharding import whole_state_dict
from .state_cache import image_states, text_states
from .stream_run import known_captions, open_train_stream, streamed_pairs
from .trainer import ClipScratchTrainer

logger = logging.getLogger(__name__)

_IN_MEMORY = 4e9  # bytes of a split's decoded pictures, in all processes of a machine together


def train(
    model_options: ModelArguments, data: DataArguments, args: ClipScratchTrainingArguments, settings: dict
) -> dict[str, dict[str, float]]:
    """Runs a recipe from data to run folder.

    Args:
        model_options, data, args, settings: from `parse_recipe`.
    Returns: {data set: {metric: value}} on the test split (validation where there is none, or the recipe wants none).
    Raises: ValueError for what the user can mend.

    >>> from modeling_clipscratch.training import parse_recipe
    >>> options = ["--max_steps", "1", "--output_dir", "runs/again", "--disable_tqdm", "true"]
    >>> options += ["--text_num_layers", "1", "--vision_num_layers", "1", "--overwrite_output_dir"]
    >>> metrics = train(*parse_recipe(["digits.yaml", *options]))
    >>> sorted(metrics["digits"])[-2:]
    ['top5', 'top5_ci95']
    """
    check_processes(args)
    with lock_run_folder(args.output_dir, writes=args.should_save):
        return _train(model_options, data, args, settings)


def _train(model_options, data, args, settings):
    settings = {**settings, "global_batch_size": args.global_batch_size}  # on other processes it must stay what it is
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
    built = check_towers(model_options)
    if args.push_to_hub and args.process_index == 0:
        args.hub_model_id = open_for_pushes(args)  # now: that it may be written to is better known before the training
    stream, readers = open_train_stream(data, args) if data.streaming else (None, _open_splits(data))
    measures = args.eval_strategy != "no" or data.validation_fraction > 0
    splits = [] if stream is not None else ["train"]
    splits += ["validation"] if measures and (stream is None or "validation" in readers) else []
    rows = {split: _rows(data, split, readers) for split in splits}
    _check_classes(stream or rows["train"])
    # Now: a missing split is better known before the training than after.
    test = _test_rows(data, readers, "validation" if "validation" in rows else "nothing")
    del readers  # and with it rows that were parted
    captions = {split: CaptionTable(part) for split, part in rows.items()}
    model, processor = built or build_model(
        model_options, captions["train"].texts if stream is None else known_captions(stream)
    )
    adapters = add_adapters(model, model_options)
    if adapters and args.gradient_checkpointing:
        raise ValueError(
            "gradient_checkpointing has no effect on a frozen tower with adapters; leave it out and set "
            "encode_chunk_size, which saves more."
        )
    for tower in (model.text_model, model.vision_model):
        # States are computed once, in full precision.
        precision = "fp32" if data.cache_states and stream is None and is_fixed(tower) else args.precision
        set_attention(tower, choose_attention(args.attention, precision=precision, use_cpu=args.use_cpu))
    preprocess = Preprocess(processor.image_processor)
    add_drops(model, patches=args.patch_dropout, blocks=args.drop_path, image_size=preprocess.image_size)
    trained = count_trained(model)
    model.to(args.device)

    augment = build_augment(data, preprocess, model)
    pairs = {split: _pairs(rows[split], captions[split], model, processor, augment, data, args) for split in rows}
    if stream is not None:
        pairs["train"] = streamed_pairs(stream, model, processor, data, args)

    facts = data_facts(data, pairs, stream or rows["train"], test)
    settle_metric(args, facts["kind"], (stream or rows["train"]).class_names)
    trainer = ClipScratchTrainer(
        model,
        args,
        train_dataset=pairs["train"],
        eval_dataset=pairs.get("validation"),
        processing_class=processor,
        augment=augment,
        muon_matrices=muon_matrices(model, model_options, args.muon_learning_rate),
    )
    if adapters and trainer.is_fsdp_enabled:
        raise ValueError("adapters are merged into whole weights, which FSDP's processes do not have; launch with DDP.")
    if stream is not None and checkpoint is not None:
        trainer.stream.load(checkpoint)
    if checkpoint is not None:
        check_fits(checkpoint, trainer)
    if args.should_save:
        trainer.recipe = begin_run_folder(args.output_dir, settings, resume=resume, notes=notes)
    trainer.train_from(checkpoint)

    metrics = {data.dataset: _measure(trainer, processor, test, data, args)}
    merge_adapters(adapters)
    weights = whole_state_dict(trainer.accelerator, trainer.model)
    if args.should_save:
        finish_run_folder(
            args.output_dir,
            model=trainer.accelerator.unwrap_model(trainer.model),
            weights=weights,
            processor=processor,
            state=trainer.state,
            metrics=metrics,
            facts=run_facts(model_options, facts, args, trainer.state, trainer.record.images_seen, trained),
            pictures=lambda folder: _draw_curves(trainer.state, folder),
        )
    trainer.accelerator.wait_for_everyone()
    return metrics


def _draw_curves(state, folder):
    from ..evaluation.pictures.curves import plot_curves  # brings matplotlib, which is slow to import

    plot_curves(state.log_history, folder / "curves.png")


def _open_splits(data):
    return open_splits(
        data.dataset,
        image_column=data.image_column,
        caption_column=data.caption_column,
        label_column=data.label_column,
        class_names=data.class_names,
        templates=data.templates,
        revision=data.dataset_revision,
    )


def _rows(data, split, readers):
    rows = read_split(readers, split, dataset=data.dataset, validation_fraction=data.validation_fraction)
    logger.info("%s: %s rows of %s data (%s)", split, f"{len(rows):,}", rows.kind, rows.origin)
    return rows


def _pairs(rows, captions, model, processor, augment, data, args):
    """A `PairDataset`, with whatever a frozen tower would compute again and again taken from the cache."""
    tokens = TokenTable(captions.texts, processor.tokenizer, processor.tokenizer.model_max_length)
    cache = {"folder": data.cache_dir, "batch_size": args.per_device_eval_batch_size, "progress": not args.disable_tqdm}
    cache_text = data.cache_states and is_fixed(model.text_model)
    cache_pictures = data.cache_states and is_fixed(model.vision_model)
    texts = {"text_states": text_states(model, tokens, **cache)} if cache_text else {"tokens": tokens}

    # States outlive the run, and evaluation is the image processor's.
    preprocess = Preprocess(processor.image_processor, exact=cache_pictures or rows.split != "train")
    height, width = preprocess.image_size
    in_memory = data.keep_in_memory if rows.split == "train" else None  # validation is read at every evaluation
    skips = data.on_bad_image == "skip"
    if in_memory is None:
        # Each process holds the whole split. Rows must not depend on their number where broken pictures are skipped.
        processes = 1 if skips else local_process_count()
        in_memory = len(rows) * height * width * 3 * processes < _IN_MEMORY
    pixels, kept, progress = None, np.arange(len(rows)), not args.disable_tqdm
    if in_memory and (skips or not cache_pictures):  # else pictures whose states are there are never opened
        pixels, kept = preprocess.read_all(rows, on_bad_image=data.on_bad_image, progress=progress)
    elif skips and (cache_pictures or rows.split != "train"):  # while it trains, another picture takes a place
        kept = preprocess.readable(rows, progress=progress)
    if len(kept) < len(rows):
        logger.warning(
            "%s: %d of %d pictures cannot be read and are left out.", rows.split, len(rows) - len(kept), len(rows)
        )
        rows, captions = rows.select(kept), captions.select(kept)
    if not cache_pictures:
        read = {"preprocess": preprocess, "on_bad_image": data.on_bad_image} if pixels is None else {"pixels": pixels}
        return PairDataset(rows, captions, seed=args.seed, **read, **texts)
    states = image_states(
        model,
        lambda chosen: preprocess.read_all(rows.select(chosen))[0] if pixels is None else pixels[chosen],
        [rows.fingerprint, processor.image_processor.to_json_string()],
        rows.keys,
        augment,
        views=data.image_views if rows.split == "train" else 1,
        seed=args.seed,
        may_flip=captions.rows_survive_flip(),
        **cache,
    )
    return PairDataset(rows, captions, seed=args.seed, image_states=states, **texts)


def _check_classes(rows):
    if rows.kind == "class" and len(rows.class_names) < 2:
        raise ValueError(
            f"{rows.name} has one class, {rows.class_names[0]!r}, so there is nothing to tell apart; give the folder "
            "whose sub-folders are the classes, or captions (metadata.csv)."
        )


def _test_rows(data, readers, otherwise):
    """Args: otherwise: what the finished run is measured on where there is no test split."""
    if data.test_split in (None, "none", "no"):
        return None
    try:
        return _rows(data, "test" if data.test_split == "auto" else data.test_split, readers)
    except ValueError as error:
        if data.test_split == "auto" and isinstance(error, NoSuchSplitError):
            logger.info("%s has no test split: the finished run is measured on %s", data.dataset, otherwise)
            return None
        raise ValueError(f"{error} (Or do without a test: --test_split none.)") from error


def _measure(trainer, processor, test, data, args):
    """Metrics on the test split, else on validation; none where a streamed set has neither."""
    if test is None:
        if trainer.eval_dataset is None:
            return {}
        result = trainer.measure(trainer.eval_dataset)
        return {**result.metrics, **confidence_intervals(result.outcomes)}
    model = trainer.accelerator.unwrap_model(trainer.model)
    with trainer.accelerator.autocast():
        return evaluate_rows(
            model, processor, test, batch_size=args.per_device_eval_batch_size, on_bad_image=data.on_bad_image
        ).metrics
