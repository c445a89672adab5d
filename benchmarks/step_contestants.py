"""Implement a training step of the same towers in several ways: ClipScratch, by hand, and the usual libraries.

Each is a function (regime, steps) -> seconds of its steps after two to warm up. All use the same rows, train a ViT from
scratch with a frozen DistilBERT-base of random weights, and project to 512. The text side differs most: the usual
implementations run the frozen tower at every step.
"""

import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import datasets
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    PreTrainedTokenizerFast,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    VisionTextDualEncoderModel,
    ViTConfig,
    ViTImageProcessorPil,
    ViTModel,
)

from modeling_clipscratch.data.dataset import ImageReader, class_names, labels_of
from modeling_clipscratch.data.images.augment import Augment
from modeling_clipscratch.data.load import load_data
from modeling_clipscratch.data.templates import class_prompts
from modeling_clipscratch.training.optimization.device import choose_attention, choose_precision
from modeling_clipscratch.training.recipe.recipe import parse_recipe
from modeling_clipscratch.training.run import train
from modeling_clipscratch.training.towers.word_tokenizer import word_tokenizer
from modeling_clipscratch.training.trainer import ClipScratchTrainer

WARM_UP, PROJECTION, CONTEXT = 2, 512, 128
MEAN = [0.5] * 3


@dataclass(frozen=True)
class Regime:
    """Sizes, data and towers that all implementations share; `text_tower` is the folder of the frozen tower."""

    dataset: str
    rows: datasets.Dataset
    captions: list[str]
    text_tower: str
    batch: int
    image_size: int
    patch_size: int
    width: int
    layers: int
    heads: int

    @cached_property
    def read_image(self) -> ImageReader:
        return ImageReader(self.rows)

    def vision_config(self, attention="sdpa") -> ViTConfig:
        return ViTConfig(
            hidden_size=self.width, num_hidden_layers=self.layers, num_attention_heads=self.heads,
            intermediate_size=4 * self.width, image_size=self.image_size, patch_size=self.patch_size,
            attn_implementation=attention,
        )  # fmt: skip

    def processor(self):
        size = {"height": self.image_size, "width": self.image_size}
        return ViTImageProcessorPil(size=size, image_mean=MEAN, image_std=MEAN)


def write_text_tower(folder: Path, captions: list[str], config: DistilBertConfig) -> str:
    """Save a DistilBERT of random weights, with a tokenizer that knows the words of the captions."""
    torch.manual_seed(0)
    DistilBertModel(config).save_pretrained(folder)
    tokenizer = word_tokenizer(captions)
    tokenizer.model_max_length = config.max_position_embeddings
    tokenizer.save_pretrained(folder)
    return str(folder)


def make_regime(dataset: str, folder: Path, *, text: DistilBertConfig | None = None, **sizes) -> Regime:
    """Load the training rows of a dataset with their first captions, and make a text tower for them."""
    data = load_data(dataset, splits=["train"])
    rows = data["train"]
    if data.templates:
        prompts = [class_prompts(name, data.templates)[0] for name in class_names(rows)]
        captions = [prompts[label] for label in labels_of(rows)]
    else:
        captions = [texts[0] for texts in rows["captions"]]
    tower = write_text_tower(folder / f"distilbert-{sizes['image_size']}", captions, text or DistilBertConfig())
    return Regime(dataset, rows, captions, tower, **sizes)


# ClipScratch: a whole training run


def clipscratch(regime: Regime, steps: int, **fields) -> float:
    """Train a recipe: data, cache, Trainer, logging, optimizer, shifts and flips."""
    start, end = steps_of_clipscratch(regime, steps, **fields)
    return end - start


def steps_of_clipscratch(regime: Regime, steps: int, **fields) -> tuple[float, float]:
    """Return when the timed steps began and ended, with other `fields` of the recipe."""
    return steps_of_recipe(recipe_words(regime, **fields), steps)


def steps_of_recipe(words: list[str], steps: int) -> tuple[float, float]:
    """Return the start of the first timed step and of the one after the last, so that time between steps counts."""
    starts = []
    step = ClipScratchTrainer.training_step

    def timed(self, *args, **kwargs):
        # A GPU works asynchronously: the clock waits for it only at both ends.
        starts.append(now() if len(starts) in (WARM_UP, WARM_UP + steps) else time.perf_counter())
        return step(self, *args, **kwargs)

    ClipScratchTrainer.training_step = timed
    try:
        train(*parse_recipe([*words, "--max_steps", str(WARM_UP + steps + 1)]))
    finally:
        ClipScratchTrainer.training_step = step
    return starts[WARM_UP], starts[WARM_UP + steps]


def now() -> float:
    """Return the time once the device has finished its work."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    return time.perf_counter()


def words_of(fields: dict) -> list[str]:
    """Return fields of a recipe as options of a command line."""
    return [word for name, value in fields.items() for word in (f"--{name}", str(value))]


def recipe_words(regime: Regime, **fields) -> list[str]:
    """Return the options of the run, without its number of steps."""
    fields = {
        "dataset": regime.dataset, "text_tower": regime.text_tower, "text_pooling": "mean", "vision_tower": "vit",
        "image_size": regime.image_size, "patch_size": regime.patch_size, "vision_hidden_size": regime.width,
        "vision_num_layers": regime.layers, "vision_num_heads": regime.heads, "global_batch_size": regime.batch,
        "random_shift": 4, "horizontal_flip": 0.5, "eval_strategy": "no", "save_strategy": "no", "test_split": "none",
        "disable_tqdm": "true", "overwrite_output_dir": "true", "output_dir": f"{regime.text_tower}-run",
        "cache_dir": f"{regime.text_tower}-cache", "logging_steps": 5, **fields,
    }  # fmt: skip
    return words_of(fields)


# By hand: the arithmetic alone


class ByHand(nn.Module):
    """A ViT and two matrices; text features are in memory."""

    def __init__(self, regime: Regime, attention: str):
        super().__init__()
        self.tower = ViTModel(regime.vision_config(attention), add_pooling_layer=False)
        self.image_head = nn.Linear(regime.width, PROJECTION, bias=False)
        self.text_head = nn.Linear(DistilBertConfig().dim, PROJECTION, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(2.6592))

    def forward(self, pixels, features, group):
        images = nn.functional.normalize(self.image_head(self.tower(pixels).last_hidden_state[:, 0]).float(), dim=1)
        texts = nn.functional.normalize(self.text_head(features).float(), dim=1)
        logits = images @ texts.t() * self.logit_scale.exp()
        targets = (group[:, None] == group[None]).float()
        targets = targets / targets.sum(1, keepdim=True)
        return (nn.functional.cross_entropy(logits, targets) + nn.functional.cross_entropy(logits.t(), targets)) / 2


def by_hand(regime: Regime, steps: int, *, attention: str = "auto") -> float:
    """Time steps with all inputs in memory, fused AdamW, precision and attention as a run chooses them."""
    step = hand_step(regime, attention)
    for _ in range(WARM_UP):
        step()
    start = now()
    for _ in range(steps):
        step()
    return now() - start


def hand_step(regime: Regime, attention: str = "auto"):
    """Return one step as a function, with its inputs in memory."""
    torch.manual_seed(0)
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    use_cpu = device.type == "cpu"
    precision = choose_precision(use_cpu=use_cpu)
    attention = choose_attention(attention, precision=precision, use_cpu=use_cpu)
    model = ByHand(regime, attention).train().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    shape = (4 * regime.batch, regime.image_size, regime.image_size, 3)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, device=device)
    features = torch.randn(len(pixels), DistilBertConfig().dim, device=device)
    group = torch.randint(0, 10, (len(pixels),), device=device)
    augment = Augment(mean=MEAN, std=MEAN, random_shift=4, horizontal_flip=0.5)
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[precision]

    def step():
        chosen = torch.randint(0, len(pixels), (regime.batch,), device=device)
        views = augment(pixels[chosen], chosen, chosen >= 0)
        with torch.autocast(device.type, dtype, enabled=precision != "fp32"):
            loss = model(views, features[chosen], group[chosen])
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    step.model = model
    return step


# The usual implementations


class Items(torch.utils.data.Dataset):
    """Read one row at a time, as tutorials do."""

    def __init__(self, regime: Regime, padding: str):
        self.regime, self.padding = regime, padding
        self.processor = regime.processor()
        self.tokenizer = PreTrainedTokenizerFast.from_pretrained(regime.text_tower)

    def __len__(self):
        return len(self.regime.rows)

    def __getitem__(self, index):
        pixels = self.processor(self.regime.read_image(index), return_tensors="pt").pixel_values[0]
        if self.padding == "longest":
            return pixels, self.regime.captions[index]
        tokens = self.tokenizer(
            self.regime.captions[index], padding="max_length", max_length=CONTEXT, truncation=True, return_tensors="pt"
        )
        return pixels, tokens["input_ids"][0], tokens["attention_mask"][0]

    def collate(self, items):
        if self.padding == "longest":
            tokens = self.tokenizer([caption for _, caption in items], padding=True, return_tensors="pt")
            ids, mask = tokens["input_ids"], tokens["attention_mask"]
        else:
            ids, mask = (torch.stack([item[part] for item in items]) for part in (1, 2))
        return {"pixel_values": torch.stack([item[0] for item in items]), "input_ids": ids, "attention_mask": mask}


def dual_encoder(regime: Regime) -> VisionTextDualEncoderModel:
    """Build the class of transformers with towers of the same sizes, the text tower frozen.

    The class needs a tower with a pooler, so the text tower is a BERT of DistilBERT's depth.
    """
    torch.manual_seed(0)
    frozen = DistilBertConfig.from_pretrained(regime.text_tower)
    sizes = {"hidden_size": frozen.dim, "num_hidden_layers": frozen.n_layers, "num_attention_heads": frozen.n_heads}
    text = BertModel(BertConfig(**sizes, intermediate_size=frozen.hidden_dim, vocab_size=frozen.vocab_size))
    vision = ViTModel(regime.vision_config())
    model = VisionTextDualEncoderModel(vision_model=vision, text_model=text)
    model.text_model.requires_grad_(False)
    return model


class Seed(nn.Module):
    """The first tokens of two towers, two heads, and the loss of the diagonal."""

    def __init__(self, regime: Regime):
        super().__init__()
        self.text = DistilBertModel.from_pretrained(regime.text_tower).requires_grad_(False)
        self.vision = ViTModel(regime.vision_config(), add_pooling_layer=False)
        self.text_head = nn.Linear(self.text.config.dim, PROJECTION)
        self.image_head = nn.Linear(regime.width, PROJECTION)
        self.logit_scale = nn.Parameter(torch.tensor(2.6592))

    def forward(self, pixel_values, input_ids, attention_mask):
        images = self.image_head(self.vision(pixel_values).last_hidden_state[:, 0])
        texts = self.text_head(self.text(input_ids, attention_mask).last_hidden_state[:, 0])
        images, texts = nn.functional.normalize(images, dim=1), nn.functional.normalize(texts, dim=1)
        logits = images @ texts.t() * self.logit_scale.exp()
        place = torch.arange(len(logits), device=logits.device)
        return (nn.functional.cross_entropy(logits, place) + nn.functional.cross_entropy(logits.t(), place)) / 2


def seed_loop(regime: Regime, steps: int, *, padding: str) -> float:
    """Time the loop of the tutorial: single items, both towers at every step, fp32, Adam, `loss.item()`."""
    torch.manual_seed(0)
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    items = Items(regime, padding)
    loader = torch.utils.data.DataLoader(items, regime.batch, shuffle=True, drop_last=True, collate_fn=items.collate)
    model = Seed(regime).to(device).train()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    done, start = 0, 0.0
    while True:
        for batch in loader:
            if done == WARM_UP:
                start = time.perf_counter()
            loss = model(**{name: tensor.to(device) for name, tensor in batch.items()})
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()
            done += 1
            if done == WARM_UP + steps:
                return time.perf_counter() - start


class _Clock(TrainerCallback):
    def __init__(self):
        self.starts = []

    def on_step_begin(self, args, state, control, **kwargs):
        self.starts.append(now())


def dual_encoder_trainer(regime: Regime, steps: int) -> float:
    """Time `VisionTextDualEncoderModel` with transformers' Trainer and its defaults, captions padded to the longest."""
    items, clock = Items(regime, "longest"), _Clock()
    args = TrainingArguments(
        output_dir=f"{regime.text_tower}-trainer", per_device_train_batch_size=regime.batch, report_to="none",
        max_steps=WARM_UP + steps + 1, save_strategy="no", logging_steps=5, disable_tqdm=True,
        remove_unused_columns=False, dataloader_drop_last=True, learning_rate=1e-3, dataloader_pin_memory=False,
    )  # fmt: skip
    collate = lambda batch: {**items.collate(batch), "return_loss": True}  # noqa: E731
    trainer = Trainer(dual_encoder(regime), args, train_dataset=items, data_collator=collate, callbacks=[clock])
    trainer.train()
    return clock.starts[WARM_UP + steps] - clock.starts[WARM_UP]
