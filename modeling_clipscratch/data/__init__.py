"""From a name, a path or an id of the Hub to a `datasets.DatasetDict`, and from there to batches; knows no model."""

from ..rooms import show

__all__ = show(
    __name__,
    load=["load_data"],
    columns=["DataOptions"],
    dataset=["ImageReader", "prepare_dataset"],
    pictures=["BadImageError", "decode_image"],
    templates=["class_prompts"],
    captions=["CaptionTable", "TokenTable"],
    pixels=["Preprocess"],
    augment=["Augment"],
    batches=["PairDataset"],
)
