"""The fields of a recipe: what the model is, what it learns from, and how; with their defaults and checks."""

import dataclasses
from dataclasses import dataclass, field

import torch
from transformers import TrainingArguments

from ...data.columns import DataOptions
from ...hub.configuration_clipscratch import LOSSES, POOLINGS, PROJECTIONS, STATE_NORMS
from ...hub.errors_clipscratch import ClipScratchError
from ..loss.global_batch import settle_global_batch
from ..optimization.device import PRECISIONS, no_accelerator, settle_precision
from ..towers.attention import ATTENTIONS
from .checks import check_before, check_numbers, check_switches


def _option(default, text, **more):
    return field(default=default, metadata={"help": text, **more})


@dataclass
class ModelArguments:
    """Towers, pooling, projection and loss.

    >>> ModelArguments(vision_tower="vit", image_size=32, freeze_text=False).projection_dim
    512
    """

    text_tower: str = _option(
        "distilbert/distilbert-base-uncased", "Hub id or folder, or a model type to train from scratch (distilbert)."
    )
    vision_tower: str = _option(
        "google/vit-base-patch16-224-in21k", "Hub id or folder, or a model type to train from scratch (vit)."
    )
    tokenizer: str | None = _option(
        None, "Hub id or folder. Default: the text tower's; for one from scratch, the words of the training captions."
    )
    text_hidden_size: int = _option(128, "Width of a text tower from scratch.")
    text_num_layers: int = _option(4, "Layers of a text tower from scratch.")
    text_num_heads: int = _option(4, "Attention heads of a text tower from scratch.")
    vision_hidden_size: int = _option(192, "Width of a vision tower from scratch.")
    vision_num_layers: int = _option(6, "Layers of a vision tower from scratch.")
    vision_num_heads: int = _option(3, "Attention heads of a vision tower from scratch.")
    patch_size: int = _option(4, "Patch of a vision tower from scratch, pixels.")
    vision_init: str = _option(
        "normal", "First weights of a ViT from scratch; mimetic: as trained ones look.", choices=("normal", "mimetic")
    )
    image_size: int | None = _option(
        None, "Edge of the square that the tower sees, pixels; needed from scratch, else the pretrained tower's."
    )
    max_length: int | None = _option(None, "Tokens of a caption that are read. Default: as many as the tower can.")
    projection_dim: int = _option(512, "Width of the shared space.")
    projection: str = _option("linear", "Head of each tower.", choices=PROJECTIONS)
    text_pooling: str = _option("cls", "Text tokens to one state.", choices=POOLINGS)
    vision_pooling: str = _option("cls", "Picture tokens to one state.", choices=POOLINGS)
    text_state_norm: str = _option("none", "Normalisation of text states.", choices=STATE_NORMS)
    vision_state_norm: str = _option("none", "Normalisation of picture states.", choices=STATE_NORMS)
    freeze_text: bool = _option(True, "No training of the text tower.")
    freeze_vision: bool = _option(False, "No training of the vision tower.")
    unfreeze_text_layers: int = _option(0, "Last blocks of a frozen text tower that are trained all the same.")
    unfreeze_vision_layers: int = _option(0, "Last blocks of a frozen vision tower that are trained all the same.")
    text_lora_rank: int = _option(0, "Rank of adapters (LoRA) that are trained in a frozen text tower; 0 for none.")
    vision_lora_rank: int = _option(0, "Rank of adapters that are trained in a frozen vision tower; 0 for none.")
    loss: str = _option("softmax", "Contrastive loss.", choices=LOSSES)
    logit_scale_init_value: float = _option(2.6592, "Natural log of the first inverse temperature.")

    def __post_init__(self):
        check_numbers(self)


@dataclass
class DataArguments:
    """Where the images and texts come from.

    >>> DataArguments(dataset="photos", label_column="species").validation_fraction
    0.1
    """

    dataset: str = _option("digits", "digits, scenes, a Hub id, or the path of a folder or file.")
    dataset_config: str | None = _option(None, "Configuration of the dataset, where it has several.")
    dataset_revision: str | None = _option(None, "Branch, tag or commit of a dataset of the Hub.")
    test_split: str | None = _option(
        "auto", "Split that the finished run is measured on; 'none' for validation; auto: test where the data has one."
    )
    image_column: str | None = _option(None, "Column of the pictures, where it is not plain.")
    caption_column: str | None = _option(None, "Column of the captions, where it is not plain.")
    label_column: str | None = _option(None, "Column of the classes, where it is not plain.")
    class_names: list[str] | None = field(
        default=None, metadata={"help": "Names of the classes, in label order; or a .txt with a name a line."}
    )
    templates: list[str] | None = field(
        default=None,
        metadata={
            "help": "Prompts of class data, {} stands for the class; or a .txt, or cifar10, cifar100, imagenet for "
            "CLIP's lists. Default: the data set's."
        },
    )
    validation_fraction: float = _option(0.1, "Share of the training rows for validation, where there is no split.")
    streaming: bool = _option(
        False, "Read the training rows as they are needed: tar shards or parquet, local or of the Hub; needs max_steps."
    )
    split_column: str | None = _option(
        None, "Column that names the split of a row. Default: one called split; none reads it as any other."
    )
    image_root: str | None = _option(None, "Folder that the paths in a table are relative to. Default: the table's.")
    folder_names: str | None = _option(
        None, "What the names of sub-folders are, where they may be either.", choices=("classes", "splits")
    )
    caption_lines: str | None = _option(
        None, "Whether the lines of a text file are several captions or one, where it is not plain.",
        choices=("split", "join"),
    )  # fmt: skip

    def reading(self) -> DataOptions:
        """How `load_data` reads the dataset; whether it leaves bad rows out is `ClipScratchTrainingArguments`'."""
        names = {item.name for item in dataclasses.fields(DataOptions)} & vars(self).keys()
        return DataOptions(revision=self.dataset_revision, **{name: getattr(self, name) for name in names})


@dataclass
class ClipScratchTrainingArguments(TrainingArguments):
    """transformers' `TrainingArguments`, every one of them, with defaults for contrastive training.

    Other defaults than transformers': a global batch of 256, of 256 for evaluation too, the last incomplete one left
    out, learning rate 1e-3, weight decay 0.1, beta2 0.98, a cosine schedule after a warm-up of 5 %, a log line each 10
    steps, an evaluation and a checkpoint each epoch, two kept and the best one loaded, no reporting service, seed 0;
    losses logged as they are, batches copied to a GPU while it works; `bf16` and `fp16` follow from `precision`, and
    one that is false excludes that choice.
    New: `global_batch_size`, `encode_chunk_size`, `memory_budget_gb`, `precision`, `attention`, `tower_learning_rate`,
    `muon_learning_rate`, `patch_dropout`, `drop_path`, `ema_decay`, `early_stopping_patience`,
    `overwrite_output_dir`; what is done to images (`random_shift` to `mixup`), and how rows are
    read and features cached (`on_bad_row`, `keep_in_memory`, `stream_shuffle_rows`, `cache_features`,
    `cache_dir`).

    >>> args = ClipScratchTrainingArguments(global_batch_size=128, num_train_epochs=3)
    >>> args.global_batch_size, args.learning_rate
    (128, 0.001)
    """

    global_batch_size: int | None = _option(
        None, "Pairs that the loss compares, over all processes. Default: 256, or what the next field makes of it."
    )
    per_device_train_batch_size: int | None = _option(
        None, "Pairs that a process encodes at once; gradient_accumulation_steps times that are its share of the batch."
    )
    encode_chunk_size: str = _option(
        "auto", "Pairs that a process encodes at once, a number; auto: as many as the memory budget allows."
    )
    memory_budget_gb: float | None = _option(
        None,
        "Memory that encode_chunk_size=auto may fill, a process. Default: half of a CPU's, nine tenths of a GPU's.",
    )
    per_device_eval_batch_size: int = _option(256, "Pictures or texts encoded at once, a process.")
    learning_rate: float = _option(1e-3, "Highest learning rate.")
    weight_decay: float = _option(0.1, "Decay of matrices; norms, biases and the temperature have none.")
    adam_beta2: float = _option(0.98, "Second moment of AdamW.")
    lr_scheduler_type: str = _option("cosine", "Learning rate over the run.")
    warmup_steps: float = _option(0.05, "Steps of rising learning rate; below 1 a share of all steps.")
    logging_steps: float = _option(10, "Steps between log lines.")
    eval_strategy: str = _option("epoch", "When to evaluate: no, steps, epoch.")
    save_strategy: str = _option("epoch", "When to write a checkpoint: no, steps, epoch, best.")
    save_total_limit: int | None = _option(2, "Checkpoints kept, the best one among them.")
    load_best_model_at_end: bool = _option(True, "End with the best checkpoint.")
    dataloader_drop_last: bool = _option(True, "Leave a last, smaller batch out: its loss would be another one.")
    logging_nan_inf_filter: bool = _option(
        False, "Wait for the device at each step and log no NaN; such a loss ends the run in any case."
    )
    remove_unused_columns: bool = _option(False, "Not used: batches are made whole.")
    report_to: list[str] | str | None = _option("none", "tensorboard, trackio, wandb, ..., or several.", nargs="+")
    disable_tqdm: bool | None = _option(False, "No progress bars.")
    seed: int = _option(0, "Seed of weights, order, captions and augmentation.")
    output_dir: str | None = _option("runs/clipscratch", "Folder of the run.")
    precision: str = _option("auto", "Arithmetic of the towers; auto asks the device.", choices=PRECISIONS)
    bf16: bool | None = _option(None, "The same as precision bf16; false: any but that.", nargs="?", const=True)
    fp16: bool | None = _option(None, "The same as precision fp16; false: any but that.", nargs="?", const=True)
    attention: str = _option(
        "auto", "Attention kernel; auto: eager_bf16 for bf16 on CPUs, else sdpa.", choices=ATTENTIONS
    )
    tower_learning_rate: float | None = _option(
        None, "Highest learning rate of the towers' weights, where it is not that of the heads."
    )
    muon_learning_rate: float | None = _option(
        None, "Highest learning rate of Muon, for the blocks' matrices of towers from scratch. Default: AdamW for all."
    )
    patch_dropout: float = _option(0.0, "Share of a picture's patches that the vision tower does not see in training.")
    drop_path: float = _option(0.0, "Probability that a picture passes the vision tower's last block unchanged.")
    ema_decay: float | None = _option(
        None, "Decay of a moving average of the weights, e.g. 0.999; evaluations and the finished folder then use it."
    )
    early_stopping_patience: int | None = _option(
        None, "Evaluations without a better metric_for_best_model after which the run ends. Default: it does not."
    )
    on_bad_row: str = _option(
        "raise", "At a row with a broken image, no caption or no label: stop, or leave it out.",
        choices=("raise", "skip"),
    )  # fmt: skip
    stream_shuffle_rows: int = _option(2048, "Rows that each reader of a stream holds and shuffles at a time.")
    keep_in_memory: bool | None = _option(
        None, "Decode all images once and keep them as bytes. Default: where a split takes less than 4 GB."
    )
    random_shift: int = _option(0, "Training images move by up to this many pixels each way.")
    random_crop_min_area: float = _option(
        1.0, "Least share of the image that a random crop is drawn with; 1 is no crop."
    )
    horizontal_flip: float = _option(0.0, "Probability of a mirror image, where the caption survives it.")
    trivial_augment: float = _option(
        0.0, "Probability of one random change of colour, place or shape (TrivialAugment); colours in captions suffer."
    )
    random_erasing: float = _option(0.0, "Probability that a rectangle is erased.")
    cutmix: float = _option(0.0, "Probability that a part of another image is pasted in, its captions counting too.")
    mixup: float = _option(0.0, "Probability that another image shines through, its captions counting too.")
    cache_features: bool = _option(True, "Run a frozen tower once over all it will see and keep its features on disk.")
    cache_dir: str | None = _option(
        None, "Folder of the cached features. Default: clipscratch in the Hugging Face cache."
    )
    hub_strategy: str = _option("end", "Only end: the finished folder is pushed, in one commit.")
    do_train: bool | None = _option(None, "Only true: a run trains.", nargs="?", const=True)
    do_eval: bool | None = _option(None, "Not used: eval_strategy says it.", nargs="?", const=True)
    do_predict: bool | None = _option(None, "Not used: test_split says it.", nargs="?", const=True)
    overwrite_output_dir: bool = _option(False, "Begin anew in a folder that holds another run.")

    def __post_init__(self):
        check_numbers(self)
        check_before(self)
        if self.max_steps == 0:  # for transformers that is num_train_epochs
            self.num_train_epochs = 0
        if no_accelerator():
            # accelerate makes two processes of a CPU launch only where the state is told so before it is made.
            self.use_cpu = True
        if self.use_cpu:
            self.dataloader_pin_memory = False
        settle_precision(self)
        if self.eval_strategy == "no" or self.save_strategy == "no":
            self.load_best_model_at_end = False
        wanted, named = self.metric_for_best_model, self.greater_is_better
        if self.accelerator_config is None and self.dataloader_pin_memory and torch.cuda.is_available():
            self.accelerator_config = {"non_blocking": True}
        super().__post_init__()
        # transformers puts the loss there, which no evaluation here gives; the run chooses by the kind of its data.
        self.metric_for_best_model = wanted
        check_switches(self)
        settle_global_batch(self)
        for name, usual in (("tower_learning_rate", 1e-5), ("muon_learning_rate", 0.02)):
            rate = getattr(self, name)
            if rate is not None and rate <= 0:
                raise ClipScratchError(f"{name}={rate} is not above 0; choose {usual}, or leave it out.")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ClipScratchError(f"ema_decay={self.ema_decay} is not between 0 and 1; choose 0.999, or leave it out.")
        if wanted is not None and named is None:
            self.greater_is_better = not wanted.endswith(("error", "median_rank", "loss"))

    @property
    def device(self) -> torch.device:
        """As accelerate chose it, the CPU without a number: before 5.18 transformers asks torch to load to "cpu:0"."""
        device = super().device
        return torch.device("cpu") if device.type == "cpu" else device


RECIPE_GROUPS = (ModelArguments, DataArguments, ClipScratchTrainingArguments)


def recipe_fields() -> dict[str, dataclasses.Field]:
    """Every field of a recipe by its name."""
    return {item.name: item for group in RECIPE_GROUPS for item in dataclasses.fields(group) if item.init}
