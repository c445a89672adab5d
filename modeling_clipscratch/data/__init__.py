"""Sources go in, rows and batches come out; knows no model."""

from ..rooms import show

__all__ = show(
    __name__,
    load=["load_rows"],
    rows=["BadImageError", "Rows", "class_prompts"],
    columns=["Columns"],
    pictures=["decode_image"],
    captions=["CaptionTable", "TokenTable"],
    pixels=["Preprocess"],
    augment=["Augment"],
    batches=["PairDataset"],
)
