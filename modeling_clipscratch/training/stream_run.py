"""A recipe that streams goes in; its train pairs come out as a stream, and readers of the other splits."""

import logging

from ..data.captions import CaptionTable, TokenTable
from ..data.columns import Columns
from ..data.pixels import Preprocess
from ..data.splits import Readers
from ..data.stream import open_stream
from ..data.streamed_batches import StreamedPairs
from ..data.streamed_rows import StreamSource
from ..hub.towers_clipscratch import is_fixed
from .state_cache import text_states

logger = logging.getLogger(__name__)


def open_train_stream(data, args) -> tuple[StreamSource, Readers]:
    """
    Args: of the recipe; `args.ignore_data_skip` is set, since a stream goes on by its states.
    Returns: the train split, and readers of the set's other splits.
    Raises: ValueError if the set cannot be streamed, or the recipe asks for what a stream does not have.
    """
    if args.max_steps <= 0:
        raise ValueError(
            "streaming: how many rows there are is not known, so num_train_epochs has no use; set max_steps."
        )
    if data.keep_in_memory:
        raise ValueError("streaming and keep_in_memory exclude each other; leave one out.")
    if args.dataloader_persistent_workers:
        raise ValueError(
            "dataloader_persistent_workers would do nothing: a stream's readers have no epoch to outlive; leave it out."
        )
    columns = Columns(
        image=data.image_column,
        caption=data.caption_column,
        label=data.label_column,
        class_names=data.class_names,
        templates=data.templates,
    )
    source, readers = open_stream(data.dataset, columns, revision=data.dataset_revision)
    if "validation" not in readers and args.eval_strategy != "no":
        raise ValueError(
            f"{data.dataset} has no validation split, and none can be taken from a stream; --eval_strategy no goes "
            "without."
        )
    if args.eval_strategy == "epoch" or args.save_strategy == "epoch":
        logger.warning(
            "a stream's epochs have no known end: evaluation and checkpoint come at the end of the run only; set "
            "eval_strategy and save_strategy to steps."
        )
    args.ignore_data_skip = True
    logger.info("train: %s shards of %s data, streamed (%s)", f"{len(source.shards.files):,}", source.kind, source.name)
    return source, readers


def known_captions(source: StreamSource) -> list[str] | None:
    """The captions of class data; `None` where they are in the rows."""
    return None if source.kind == "caption" else CaptionTable.of_classes(source.class_names, source.templates).texts


def streamed_pairs(source: StreamSource, model, processor, data, args) -> StreamedPairs:
    """The batches of this process; the states of a frozen text tower come from the cache where prompts are known."""
    words = {"tokenizer": processor.tokenizer}
    if source.kind == "class":
        captions = CaptionTable.of_classes(source.class_names, source.templates)
        tokens = TokenTable(captions.texts, processor.tokenizer, processor.tokenizer.model_max_length)
        words = {"captions": captions, "tokens": tokens}
        if data.cache_states and is_fixed(model.text_model):
            cache = {"folder": data.cache_dir, "batch_size": args.per_device_eval_batch_size}
            states = text_states(model, tokens, **cache, progress=not args.disable_tqdm)
            words = {"captions": captions, "text_states": states}
    pairs = StreamedPairs(
        source,
        batch_size=args.per_device_train_batch_size,
        seed=args.seed,
        preprocess=Preprocess(processor.image_processor, exact=False),
        process=args.process_index,
        processes=args.world_size,
        workers=max(args.dataloader_num_workers, 1),
        shuffle_rows=data.stream_shuffle_rows,
        on_bad_image=data.on_bad_image,
        **words,
    )
    if pairs.readings() > 1.5:
        logger.warning(
            "%d shards for %d readers (processes x workers): some are shared by rows, and an epoch reads the set %.1f "
            "times; write more shards, or set dataloader_num_workers lower.",
            len(source.shards.files), pairs.processes * pairs.workers, pairs.readings(),
        )  # fmt: skip
    return pairs
