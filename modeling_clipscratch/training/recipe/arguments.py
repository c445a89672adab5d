"""Define the fields of a recipe, their defaults and their help: model, data and training."""

import dataclasses
from dataclasses import dataclass, field

import torch
from transformers import CONFIG_MAPPING, TrainingArguments

from ...data.columns import DataOptions
from ...hub.configuration_clipscratch import LOSSES, POOLINGS, PROJECTIONS, STATE_NORMS
from ...utils.errors import ClipScratchError
from ..loss.global_batch import settle_global_batch
from ..optimization.device import ATTENTIONS, choose_precision, no_accelerator
from .checks import EPOCHS, STEPS, check_fields, check_parts

_FLAG = {"nargs": "?", "const": True}  # --freeze_text alone means true


def _option(default, text, **more):
    return field(default=default, metadata={"help": text, **more})


@dataclass
class ModelArguments:
    """Towers, pooling, projection and loss."""

    text_tower: str = _option(
        "distilbert/distilbert-base-uncased",
        "Hub id or folder of pretrained weights, or a model type to train from scratch (distilbert).",
    )
    vision_tower: str = _option(
        "google/vit-base-patch16-224-in21k",
        "Hub id or folder of pretrained weights, or a model type to train from scratch (vit).",
    )
    freeze_text: bool | None = _option(None, "Do not train the text tower. Default: true if it is pretrained.", **_FLAG)
    freeze_vision: bool | None = _option(
        None, "Do not train the vision tower. Default: true if it is pretrained.", **_FLAG
    )
    unfreeze_text_layers: int = _option(0, "Last blocks of a frozen text tower to train.")
    unfreeze_vision_layers: int = _option(0, "Last blocks of a frozen vision tower to train.")
    text_lora_rank: int = _option(0, "Rank of LoRA adapters to train in a frozen text tower; 0 for none.")
    vision_lora_rank: int = _option(0, "Rank of LoRA adapters to train in a frozen vision tower; 0 for none.")
    projection_dim: int = _option(512, "Width of the shared space.")
    projection: str = _option("linear", "Head of each tower.", choices=PROJECTIONS)
    text_pooling: str = _option("cls", "How text tokens become one feature.", choices=POOLINGS)
    vision_pooling: str = _option("cls", "How image tokens become one feature.", choices=POOLINGS)
    text_state_norm: str = _option("none", "Normalisation of text features.", choices=STATE_NORMS)
    vision_state_norm: str = _option("none", "Normalisation of image features.", choices=STATE_NORMS)
    loss: str = _option("softmax", "Contrastive loss.", choices=LOSSES)
    logit_scale_init_value: float = _option(2.6592, "Natural log of the initial inverse temperature.")
    tokenizer: str | None = _option(
        None,
        "Hub id or folder. Default: the text tower's; for a tower from scratch, one of the training captions' words.",
    )
    max_length: int | None = _option(None, "Tokens read of a caption. Default: as many as the text tower can.")
    image_size: int | None = _option(
        None, "Edge of the square image in pixels. Default: the pretrained tower's; needed for one from scratch."
    )
    patch_size: int = _option(4, "Patch of a vision tower from scratch, in pixels.")
    text_hidden_size: int = _option(128, "Width of a text tower from scratch.")
    text_num_layers: int = _option(4, "Layers of a text tower from scratch.")
    text_num_heads: int = _option(4, "Attention heads of a text tower from scratch.")
    vision_hidden_size: int = _option(192, "Width of a vision tower from scratch.")
    vision_num_layers: int = _option(6, "Layers of a vision tower from scratch.")
    vision_num_heads: int = _option(3, "Attention heads of a vision tower from scratch.")
    vision_init: str = _option(
        "normal",
        "Initial weights of a ViT from scratch; mimetic: attention like that of trained ones.",
        choices=("normal", "mimetic"),
    )

    def __post_init__(self):
        check_fields(self)
        for side in ("text", "vision"):
            if getattr(self, f"freeze_{side}") is None:
                setattr(self, f"freeze_{side}", not is_from_scratch(getattr(self, f"{side}_tower")))


def is_from_scratch(tower: str) -> bool:
    """Whether a recipe names a model type (`vit`) rather than pretrained weights."""
    return tower in CONFIG_MAPPING


@dataclass
class DataArguments:
    """Where the images and texts come from."""

    dataset: str | None = _option(None, "digits, scenes, the path of a folder or file, or a Hub id.")
    dataset_config: str | None = _option(None, "Configuration of the dataset, if it has several.")
    dataset_revision: str | None = _option(None, "Branch, tag or commit of a dataset of the Hub.")
    image_column: str | None = _option(None, "Column of the images. Default: found by type and name.")
    caption_column: str | None = _option(None, "Column of the captions. Default: found by type and name.")
    label_column: str | None = _option(None, "Column of the classes. Default: found by type and name.")
    class_names: list[str] | None = _option(None, "Class names in label order, or a .txt. Default: the dataset's.")
    templates: list[str] | None = _option(
        None, "Prompts for classes, with {} for the class; a .txt; or CLIP's: cifar10, cifar100, imagenet."
    )
    test_split: str | None = _option(
        "auto", "Split to measure the finished run on; none: validation; auto: test if there is one, else validation."
    )
    validation_fraction: float = _option(0.1, "Share of the training rows for validation, if there is no such split.")
    split_column: str | None = _option(None, "Column that names a row's split, or none. Default: one called split.")
    image_root: str | None = _option(None, "Folder that paths in a table are relative to. Default: the table's.")
    folder_names: str | None = _option(
        None, "What the names of sub-folders are, if that is ambiguous.", choices=("classes", "splits")
    )
    caption_lines: str | None = _option(
        None,
        "Whether the lines of a text file are several captions or one, if that is ambiguous.",
        choices=("split", "join"),
    )
    streaming: bool = _option(False, "Read the training rows on the fly, from tar shards or parquet; needs max_steps.")

    def reading(self) -> DataOptions:
        """The options for `load_data`, but for `on_bad_row`, which is a field of the training arguments."""
        names = {item.name for item in dataclasses.fields(DataOptions)} & vars(self).keys()
        return DataOptions(revision=self.dataset_revision, **{name: getattr(self, name) for name in names})


@dataclass
class ClipScratchTrainingArguments(TrainingArguments):
    """transformers' `TrainingArguments` with more fields, and defaults for contrastive training.

    The defaults that differ, and the new fields, are those listed in the source; the help of each says what it does.
    `bf16` and `fp16` follow from the device, `save_strategy` and `save_steps` from those of the evaluation, and the
    length of the run from the number of training rows, unless they are given.

    Raises:
        ClipScratchError: if a value is out of range, or an option would have no effect.

    >>> args = ClipScratchTrainingArguments(global_batch_size=128, num_train_epochs=3)
    >>> args.global_batch_size, args.learning_rate
    (128, 0.001)
    """

    output_dir: str | None = _option("runs/clipscratch", "Folder of the run.")
    overwrite_output_dir: bool = _option(False, "Replace another run in the folder.")
    num_train_epochs: float = _option(-1, f"Passes over the training rows. Default: {EPOCHS}, at least {STEPS} steps.")
    global_batch_size: int | None = _option(
        None,
        "Pairs that the loss compares, over all processes; at most all training rows. Default: 256, or as many as "
        "per_device_train_batch_size gives.",
    )
    per_device_train_batch_size: int | None = _option(
        None, "Pairs that a process encodes at once. Default: follows from global_batch_size and encode_chunk_size."
    )
    encode_chunk_size: str = _option(
        "auto", "Pairs that a process encodes at once, a number; auto: as many as the memory budget allows."
    )
    memory_budget_gb: float | None = _option(
        None, "Memory for encode_chunk_size=auto, each process. Default: half of the memory of a CPU, 90 % of a GPU's."
    )
    per_device_eval_batch_size: int = _option(256, "Images or texts that a process encodes at once in evaluation.")
    learning_rate: float = _option(1e-3, "Highest learning rate.")
    tower_learning_rate: float | None = _option(
        None, "Highest learning rate of the towers, such as 1e-5 for pretrained ones. Default: learning_rate."
    )
    muon_learning_rate: float | None = _option(
        None, "Highest learning rate of Muon, for the blocks' matrices of towers from scratch. Default: AdamW for all."
    )
    weight_decay: float = _option(0.1, "Weight decay of matrices; norms, biases and the temperature have none.")
    adam_beta2: float = _option(0.98, "Decay of AdamW's second moment.")
    lr_scheduler_type: str = _option("cosine", "Schedule of the learning rate.")
    warmup_steps: float = _option(0.05, "Steps of rising learning rate; below 1, a share of all steps.")
    ema_decay: float | None = _option(
        None, "Decay of a moving average of the weights, e.g. 0.999, which evaluations and the finished model use."
    )
    patch_dropout: float = _option(0.0, "Share of an image's patches that the vision tower does not see in training.")
    random_shift: int = _option(0, "Shift training images by up to this many pixels each way.")
    random_crop_min_area: float = _option(1.0, "Smallest share of the image that a random crop keeps; 1: no crop.")
    horizontal_flip: float = _option(0.0, "Probability of a mirrored image, if no caption names a side.")
    random_erasing: float = _option(0.0, "Probability that a rectangle of the image is erased.")
    eval_strategy: str = _option("steps", "When to evaluate: no, steps, epoch.")
    eval_steps: float | None = _option(0.1, "Steps between evaluations; below 1, a share of all steps.")
    save_strategy: str | None = _option(None, "When to save: no, steps, epoch, best. Default: as evaluated.")
    save_steps: float | None = _option(None, "Steps between checkpoints; below 1, a share. Default: eval_steps.")
    save_total_limit: int | None = _option(2, "Checkpoints to keep, the best one among them.")
    load_best_model_at_end: bool = _option(True, "Finish with the checkpoint that was best on validation.")
    early_stopping_patience: int | None = _option(
        None, "Stop after so many evaluations without a better metric. Default: never."
    )
    logging_steps: float = _option(10, "Steps between log lines.")
    logging_nan_inf_filter: bool = _option(
        False, "Wait for the device at each step and log no NaN; such a loss ends the run in any case."
    )
    report_to: list[str] | str | None = _option("none", "tensorboard, trackio, wandb, ..., or several.", nargs="+")
    disable_tqdm: bool | None = _option(False, "Show no progress bars.")
    seed: int = _option(0, "Seed of weights, order, captions and augmentation.")
    bf16: bool | None = _option(
        None, "Compute the towers in bf16; false: in fp32. Default: bf16 if the device is fast at it.", **_FLAG
    )
    fp16: bool | None = _option(None, "Compute the towers in fp16. Default: false.", **_FLAG)
    attention: str = _option(
        "auto", "Attention kernel; auto: eager_bf16 for bf16 on CPUs, else sdpa.", choices=ATTENTIONS
    )
    on_bad_row: str = _option(
        "raise",
        "At a row with a broken image, no caption or no label: raise an error, or skip and count it.",
        choices=("raise", "skip"),
    )
    keep_in_memory: bool | None = _option(
        None, "Decode all images once and keep them in memory. Default: if a split takes less than 4 GB."
    )
    stream_shuffle_rows: int = _option(2048, "Rows that each reader of a stream holds and shuffles at a time.")
    cache_features: bool = _option(True, "Compute the features of a frozen tower once and keep them on disk.")
    cache_dir: str | None = _option(
        None, "Folder of the cached features. Default: clipscratch in the Hugging Face cache."
    )
    hub_strategy: str = _option("end", "Only end: the finished folder is published, in one commit.")

    def __post_init__(self):
        check_fields(self)
        if self.max_steps == 0:  # for transformers that means num_train_epochs
            self.num_train_epochs = 0
        if no_accelerator():
            # accelerate starts two processes on a CPU only if use_cpu is set before its state is made.
            self.use_cpu = True
        if self.use_cpu:
            self.dataloader_pin_memory = False
        if self.bf16 is None and self.fp16 is None:
            best = choose_precision(use_cpu=self.use_cpu)
            self.bf16, self.fp16 = best == "bf16", best == "fp16"
        self.bf16, self.fp16 = bool(self.bf16), bool(self.fp16)
        if self.save_strategy is None:
            self.save_strategy = "steps" if self.eval_strategy == "no" else self.eval_strategy
        if self.save_steps is None:
            self.save_steps = self.eval_steps
        if self.eval_strategy == "no" or self.save_strategy == "no":
            self.load_best_model_at_end = False
        metric, greater_is_better = self.metric_for_best_model, self.greater_is_better
        if self.accelerator_config is None and self.dataloader_pin_memory and torch.cuda.is_available():
            self.accelerator_config = {"non_blocking": True}
        try:
            super().__post_init__()
        except (ValueError, TypeError, ImportError) as error:  # transformers' own checks of what the user gave
            raise ClipScratchError(" ".join(str(error).split())) from error
        self.dataloader_drop_last, self.remove_unused_columns = True, False  # batches are made whole, of one size
        # transformers sets the loss, which no evaluation here measures; the trainer chooses by the kind of data.
        self.metric_for_best_model = metric
        check_parts(self)
        settle_global_batch(self)
        if metric is not None and greater_is_better is None:
            self.greater_is_better = not metric.endswith(("error", "median_rank", "loss"))

    @property
    def precision(self) -> str:
        """Arithmetic of the towers: bf16, fp16 or fp32."""
        return "bf16" if self.bf16 else "fp16" if self.fp16 else "fp32"

    @property
    def device(self) -> torch.device:
        """The device, a CPU without a number: transformers before 5.18 asks torch to load to "cpu:0"."""
        device = super().device
        return torch.device("cpu") if device.type == "cpu" else device


RECIPE_GROUPS = (ModelArguments, DataArguments, ClipScratchTrainingArguments)


def recipe_fields() -> dict[str, dataclasses.Field]:
    return {item.name: item for group in RECIPE_GROUPS for item in dataclasses.fields(group) if item.init}
