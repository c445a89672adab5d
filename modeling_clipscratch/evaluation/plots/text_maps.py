"""A model and a `Result` go in; maps of what in its pictures speaks for a text, and one PNG of them, come out."""

import logging
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from PIL import Image

from ...data.images.preprocess import Preprocess
from ...data.templates import class_prompts
from ..evaluate_dataset import Result
from ..metrics.zero_shot import cosines
from .class_sheets import surest
from .figures import WIDTH, new_figure, save_figure, shortened, show, small, spread
from .text_map import TextMap, text_map

logger = logging.getLogger(__name__)

SHOWN = 6  # pictures
ABREAST = 2  # pictures in a line
COVER = 0.6  # share of the map in the mixture


def make_maps(model, processor, result: Result) -> tuple[TextMap, ...]:
    """Maps of about six pictures, for `Result.maps`.

    Class data: the three worst misses for the class predicted and the true class, and surest hits for their class and
    the one that came second (by the texts, so not for a probe). Caption data: pictures spread evenly, each for its
    first caption.

    Args:
        model, processor, result: as given to and got from `evaluate_dataset`.
    Returns: none where the vision tower has no token for each patch.
    """
    preprocess = Preprocess(processor.image_processor)
    maps = []
    for row, texts in _class_texts(result) if result.kind == "class" else _caption_texts(result):
        picture = preprocess(result.read_image(row))
        for what, text in texts:
            try:
                heat, cosine = text_map(model, processor, picture, text)
            except ValueError as error:
                logger.info("no maps are drawn: %s", error)
                return ()
            maps.append(TextMap(row=row, picture=picture, text=text, what=what, heat=heat, cosine=cosine))
    return tuple(maps)


def plot_maps(maps: Sequence[TextMap], path: str | Path) -> None:
    """Each picture, and beside it the same picture under its maps. No picture is made of none.

    Args:
        maps: those of a picture stand together.
        path: the PNG.
    """
    if not maps:
        return
    by_picture = {}
    for found in maps:
        by_picture.setdefault(found.row, []).append(found)
    across = 1 + max(map(len, by_picture.values()))  # cells of a picture
    lines = -(-len(by_picture) // ABREAST)
    cell = WIDTH / (across * ABREAST)
    letters = int(15 * cell)  # that a cell is wide
    figure = new_figure(WIDTH, (cell + 0.65) * lines + 0.3)
    for number, found in enumerate(by_picture.values()):
        first = number // ABREAST * across * ABREAST + number % ABREAST * across + 1
        show(figure.add_subplot(lines, across * ABREAST, first), found[0].picture)
        for place, one in enumerate(found, start=1):
            axes = figure.add_subplot(lines, across * ABREAST, first + place)
            show(axes, lit(one.picture, one.heat))
            text = textwrap.fill(shortened(one.text, 2 * letters - 4), letters)
            axes.set_title(text, fontsize=8.5, parse_math=False)
            axes.set_xlabel(f"{one.what}, {one.cosine:.2f}".lstrip(", "), fontsize=8.5)
    save_figure(figure, path)


def lit(picture: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """A picture in grey under its map (h, w), which goes from dark to bright, so that it reads in grey too."""
    picture = np.asarray(small(picture)).mean(2, keepdims=True)
    heat = np.asarray(Image.fromarray(heat).resize(picture.shape[1::-1], Image.Resampling.BICUBIC)).clip(0, 1)
    return ((1 - COVER) * picture + COVER * 255 * colormaps["inferno"](heat)[..., :3]).round().astype(np.uint8)


def _class_texts(result):
    hits, misses = surest(result, SHOWN // 2)
    labels, names = result.outcomes.labels, result.class_names

    def prompt(number):
        return class_prompts(names[number], result.templates)[0]

    for row in misses:
        yield row, [("taken for", prompt(result.predicted[row])), ("truth", prompt(labels[row]))]
    for row in hits:
        order = cosines(result.image_embeds[[row]], result.text_embeds)[0].argsort(descending=True).tolist()
        second = [("came second", prompt(number)) for number in order if number != labels[row]][:1]
        yield row, [("right", prompt(labels[row])), *(second if result.task == "zero_shot" else [])]


def _caption_texts(result):
    for row in spread(np.arange(len(result.dataset)), SHOWN):
        yield row, [("", result.captions[row][0])]
