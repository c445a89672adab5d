"""A recipe's fields go in; what is done to training pictures, on the device, comes out."""

from ..data.augment import Augment
from ..data.mix import Mix
from ..data.pixels import Preprocess
from ..hub.towers_clipscratch import is_fixed
from .arguments import DataArguments


def build_augment(data: DataArguments, preprocess: Preprocess, model) -> Augment:
    """
    Args:
        data: the recipe's data part.
        preprocess: of the vision tower, whose mean and deviation normalise.
        model: unwrapped.
    Raises: ValueError if pictures are to be mixed that the vision tower sees once only.
    """
    mix = Mix(cutmix=data.cutmix, mixup=data.mixup)
    if mix != Mix() and is_fixed(model.vision_model) and data.cache_states:
        raise ValueError(
            f"cutmix={data.cutmix} and mixup={data.mixup} mix pictures, but the vision tower is frozen and its states "
            "are cached; leave them out, or set cache_states to false."
        )
    return Augment(
        mean=preprocess.mean,
        std=preprocess.std,
        random_shift=data.random_shift,
        random_crop_min_area=data.random_crop_min_area,
        horizontal_flip=data.horizontal_flip,
        trivial_augment=data.trivial_augment,
        random_erasing=data.random_erasing,
        mix=None if mix == Mix() else mix,
    )
