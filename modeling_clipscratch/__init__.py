"""Train a CLIP of your own. Importing this registers `ClipScratchModel` with transformers' auto classes."""

from importlib import import_module

from .cli.main import is_program

__version__ = "0.1.0"

# Imported on first use: a saved model needs none of their libraries.
_MODULES = {
    "ClipScratchConfig": "hub.configuration_clipscratch",
    "ClipScratchModel": "hub.modeling_clipscratch",
    "ClipScratchOutput": "hub.modeling_clipscratch",
    "DataOptions": "data.columns",
    "load_data": "data.load",
    "evaluate_dataset": "evaluation.evaluate_dataset",
    "load_model": "evaluation.load_model",
    "metric_path": "evaluation.metric_modules",
    "rank_labels": "evaluation.rank_labels",
    "open_index": "search.image_index",
    "search_index": "search.search_index",
    "update_index": "search.image_index",
    "convert": "sharing.convert_model",
    "export_onnx": "sharing.export.export_onnx",
    "push_folder": "sharing.push_model",
    "write_card": "sharing.model_card",
    "ClipScratchTrainer": "training.trainer",
    "ClipScratchTrainingArguments": "training.recipe.arguments",
}
__all__ = [*_MODULES]


def __getattr__(name: str):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)


def register() -> None:
    """Register `ClipScratchModel` with transformers' auto classes."""
    from transformers import AutoConfig, AutoModel, AutoModelForZeroShotImageClassification

    from .hub.configuration_clipscratch import ClipScratchConfig
    from .hub.modeling_clipscratch import ClipScratchModel

    AutoConfig.register("clipscratch", ClipScratchConfig)
    AutoModel.register(ClipScratchConfig, ClipScratchModel)
    AutoModelForZeroShotImageClassification.register(ClipScratchConfig, ClipScratchModel)


if not is_program():  # there `main` registers once it knows the command: the libraries take seconds to import
    register()
