"""Make batches of a Trainer's datasets: pixels in memory, cached features, augmentation."""

import logging
from dataclasses import fields

import datasets
import numpy as np

from ...data.batches.captions import CaptionTable, TokenTable
from ...data.batches.map_batches import PairDataset, TextSide
from ...data.batches.stream_batches import StreamedPairs, StreamedRows
from ...data.columns import DataOptions
from ...data.dataset import content_fingerprint, prepare_dataset
from ...data.images.augment import Augment
from ...data.images.preprocess import Preprocess
from ...data.sources.streams import undecoded, with_features
from ...data.templates import DEFAULT_TEMPLATES
from ...hub.towers_clipscratch import is_fixed
from ...utils.errors import ClipScratchError
from ..loss.gather import local_process_count
from .feature_cache import cached_image_features, cached_text_features

logger = logging.getLogger(__name__)

_IN_MEMORY = 4e9  # bytes of a split's decoded images, in all processes of a machine together


def prepare(dataset, options: DataOptions, what: str, train=None) -> datasets.Dataset | StreamedRows:
    """Prepare a dataset that a user gives to the Trainer as `what`; `train` is its training split."""
    if isinstance(dataset, datasets.Dataset):
        opened = (lambda: train) if isinstance(train, datasets.Dataset) and train is not dataset else None
        return prepare_dataset(dataset, options, train=opened)
    if isinstance(dataset, datasets.IterableDataset):
        return StreamedRows(dataset, options)
    raise ClipScratchError(
        f"{what} is a {type(dataset).__name__}; give a datasets.Dataset or IterableDataset with an image column and a "
        "label or captions: one split of what load_dataset or load_data return."
    )


def read_stream(stream: datasets.IterableDataset, options: DataOptions) -> datasets.Dataset:
    """Read all rows of an iterable dataset into memory, images encoded, for an evaluation, which needs all at once."""
    stream = undecoded(with_features(stream))
    rows = {"features": stream.features, "info": stream.info, "split": stream.split}
    return prepare_dataset(datasets.Dataset.from_list(list(stream), **rows), options)


def build_augment(args, preprocess: Preprocess, model, *, streamed: bool = False) -> Augment:
    """Build the augmentation of training images; `ClipScratchError` if the features of these images are cached."""
    defaults = {field.name: field.default for field in fields(args)}
    changes = {field.name: getattr(args, field.name) for field in fields(Augment) if field.name in defaults}
    if is_fixed(model.vision_model) and args.cache_features and not streamed:  # a stream's are not cached
        for name, value in changes.items():
            if value != defaults[name]:
                raise ClipScratchError(
                    f"{name}={value} changes images, but the vision tower is frozen and its features are cached; leave "
                    "it out, or set cache_features to false."
                )
    return Augment(mean=preprocess.mean, std=preprocess.std, **changes)


def map_pairs(
    dataset: datasets.Dataset, model, processor, augment: Augment, args, *, templates=None, training, once=False
) -> PairDataset:
    """Make batches of a prepared dataset, with cached features of frozen towers.

    `training` rows are augmented and read in a faster way; of those measured `once` each process reads its share only.
    """
    captions = CaptionTable.of(dataset, templates)
    cache_images = args.cache_features and is_fixed(model.vision_model)
    # Features outlive the run, and evaluation uses the image processor's own pixels.
    preprocess = Preprocess(processor.image_processor, exact=cache_images or not training)
    height, width = preprocess.image_size
    skips, progress = args.on_bad_row == "skip", not args.disable_tqdm
    in_memory = args.keep_in_memory if training else skips if once else None  # validation is read at every evaluation
    if in_memory is None:
        # Each process holds the whole split. Rows must not depend on their number where broken images are skipped.
        processes = 1 if skips else local_process_count()
        in_memory = len(dataset) * height * width * 3 * processes < _IN_MEMORY
    pixels, kept = None, np.arange(len(dataset))
    if in_memory and (skips or not cache_images):  # images whose features are cached are not opened
        pixels, kept = preprocess.read_all(dataset, on_bad_row=args.on_bad_row, progress=progress)
    elif skips and (cache_images or not training):  # in training, another image takes the place of a broken one
        kept = np.array([row for row, _ in preprocess.read_each(dataset, on_bad_row="skip", progress=progress)])
    if len(kept) < len(dataset):
        dataset, captions = dataset.select(kept), captions.select(kept)
    texts = text_side(captions, model, processor, args, split=dataset.split)
    source = {"preprocess": preprocess, "on_bad_row": args.on_bad_row} if pixels is None else {"pixels": pixels}
    pairs = PairDataset(dataset, captions, texts, **source)
    if not cache_images:
        return pairs
    content = [content_fingerprint(dataset), processor.image_processor.to_json_string()]
    look = {"mean": augment.mean, "std": augment.std, "split": dataset.split}
    features = cached_image_features(model, pairs.plain_images, content, len(dataset), **look, **_cache(args))
    return PairDataset(dataset, captions, texts, image_features=features)


def stream_pairs(rows: StreamedRows, model, processor, args, *, templates=None) -> StreamedPairs:
    captions = None
    if rows.class_names is not None:
        captions = CaptionTable.of_classes(rows.class_names, templates or DEFAULT_TEMPLATES)
    return StreamedPairs(
        rows,
        text_side(captions, model, processor, args),
        captions,
        batch_size=args.per_device_train_batch_size,
        seed=args.seed,
        preprocess=Preprocess(processor.image_processor, exact=False),
        process=args.process_index,
        processes=args.world_size,
        workers=max(args.dataloader_num_workers, 1),
        shuffle_rows=args.stream_shuffle_rows,
        on_bad_row=args.on_bad_row,
    )


def text_side(captions: CaptionTable | None, model, processor, args, *, split=None) -> TextSide:
    """Use cached features, or tokens, of texts that are known beforehand; else the tokenizer."""
    if captions is None:
        return TextSide(seed=args.seed, tokenizer=processor.tokenizer)
    tokens = TokenTable(captions.texts, processor.tokenizer, processor.tokenizer.model_max_length)
    if args.cache_features and is_fixed(model.text_model):
        return TextSide(seed=args.seed, features=cached_text_features(model, tokens, split=split, **_cache(args)))
    return TextSide(seed=args.seed, tokens=tokens)


def _cache(args):
    return dict(folder=args.cache_dir, batch_size=args.per_device_eval_batch_size, progress=not args.disable_tqdm)


def check_stream(args) -> None:
    """Raise `ClipScratchError` for options that a stream does not support, and set what resuming it needs."""
    if args.max_steps <= 0:
        raise ClipScratchError(
            "streaming: the number of rows is unknown, so num_train_epochs has no use; set max_steps."
        )
    if "epoch" in (args.eval_strategy, args.save_strategy):
        logger.warning("a stream's epochs have no known end; set eval_strategy and save_strategy to steps.")
    args.ignore_data_skip = True  # it resumes by its states
