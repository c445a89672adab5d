"""A recipe's fields go in; what is done to training pictures, on the device, comes out."""

from dataclasses import fields

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
    Raises: ValueError if pictures are to be changed or mixed of which the cache has no more than they are, or several
        views wanted where no cache holds them.
    """
    names = ("random_shift", "random_crop_min_area", "horizontal_flip", "trivial_augment", "random_erasing")
    changes = {name: getattr(data, name) for name in names}
    mix = Mix(cutmix=data.cutmix, mixup=data.mixup)
    augment = Augment(mean=preprocess.mean, std=preprocess.std, mix=None if mix == Mix() else mix, **changes)
    if is_fixed(model.vision_model) and data.cache_states and not data.streaming:
        if mix != Mix():
            raise ValueError(
                f"cutmix={data.cutmix} and mixup={data.mixup} mix pictures, but the vision tower is frozen and its "
                "states are cached; leave them out, or set cache_states to false."
            )
        defaults = {field.name: field.default for field in fields(DataArguments)}
        wanted = [f"{name}={value}" for name, value in changes.items() if value != defaults[name]]
        if wanted and data.image_views == 1:
            raise ValueError(
                f"{wanted[0]} changes pictures, but the vision tower is frozen and the cache has each as it is; set "
                "image_views to 2 or more, or cache_states to false."
            )
    elif data.image_views > 1:
        raise ValueError(
            f"image_views={data.image_views} are views that the cache of a frozen vision tower holds, and this run has "
            "none: each picture is changed anew whenever it comes; leave it out."
        )
    return augment
