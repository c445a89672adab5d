"""Train a CLIP of your own. Importing this registers `ClipScratchModel` with transformers' auto classes."""

import importlib

from transformers import AutoConfig, AutoModel, AutoModelForZeroShotImageClassification

from .hub.configuration_clipscratch import ClipScratchConfig
from .hub.modeling_clipscratch import ClipScratchModel, ClipScratchOutput

AutoConfig.register("clipscratch", ClipScratchConfig)
AutoModel.register(ClipScratchConfig, ClipScratchModel)
AutoModelForZeroShotImageClassification.register(ClipScratchConfig, ClipScratchModel)

__version__ = "0.1.0"
_LATER = {  # imported when they are asked for: a model is loaded without the Trainer's imports
    "ClipScratchTrainer": "training", "ClipScratchTrainingArguments": "training", "load_data": "data",
}  # fmt: skip
__all__ = ["ClipScratchConfig", "ClipScratchModel", "ClipScratchOutput", *_LATER]


def __getattr__(name):
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_LATER[name]}", __name__), name)
