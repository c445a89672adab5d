"""A model and a `Result` go in; maps of what in its pictures speaks for a text, and one PNG of them, come out."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ...data.pixels import Preprocess
from ...data.rows import class_prompts
from ..evaluate_rows import Result
from ..text_map import TextMap, text_map
from ..zero_shot import cosines
from .class_sheets import surest
from .style import WIDTH, new_figure, save_figure, shortened, show, spread, title

SHOWN = 6  # pictures
DARK = 0.2  # of its brightness that a picture keeps where the map is 0


def make_maps(model, processor, result: Result) -> tuple[TextMap, ...]:
    """Maps of about six pictures, for `Result.maps`.

    Class data: the three worst misses for the class predicted and the true class, and surest hits for their class and
    the one that came second. Caption data: pictures spread evenly, each for its first caption.

    Args:
        model, processor, result: as given to and got from `evaluate_rows`.
    """
    preprocess = Preprocess(processor.image_processor)
    maps = []
    for row, texts in _class_texts(result) if result.rows.kind == "class" else _caption_texts(result):
        picture = preprocess(result.rows.read_image(row))
        for what, text in texts:
            heat, cosine = text_map(model, processor, picture, text)
            maps.append(TextMap(row=row, picture=picture, text=text, what=what, heat=heat, cosine=cosine))
    return tuple(maps)


def plot_maps(maps: Sequence[TextMap], path: str | Path) -> None:
    """Each picture, and beside it the same picture lit by its maps. No picture is made of none.

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
    columns = 2 if across == 2 else 1
    lines = -(-len(by_picture) // columns)
    cell = WIDTH / 4
    figure = new_figure(cell * across * columns, (cell + 0.55) * lines + 0.4)
    title(figure, "what speaks for a text")
    for number, found in enumerate(by_picture.values()):
        line, column = divmod(number, columns)
        first = line * across * columns + column * across + 1
        show(figure.add_subplot(lines, across * columns, first), found[0].picture)
        for place, one in enumerate(found, start=1):
            axes = figure.add_subplot(lines, across * columns, first + place)
            show(axes, lit(one.picture, one.heat))
            axes.set_title(shortened(one.text, 30), fontsize=8.5, parse_math=False)
            axes.set_xlabel(f"{one.what}, {one.cosine:.2f}".lstrip(", "), fontsize=8.5)
    save_figure(figure, path)


def lit(picture: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3), darkened where the map (H, W) is low; it reads in grey, and no colour hides the picture."""
    return (picture * (DARK + (1 - DARK) * heat[..., None])).round().astype(np.uint8)


def _class_texts(result):
    hits, misses = surest(result, SHOWN // 2)
    labels, names = result.rows.labels, result.class_names

    def prompt(number):
        return class_prompts(names[number], result.rows.templates)[0]

    for row in misses:
        yield row, [("taken for", prompt(result.predicted[row])), ("truth", prompt(labels[row]))]
    for row in hits:
        order = cosines(result.image_embeds[[row]], result.text_embeds)[0].argsort(descending=True).tolist()
        second = [("came second", prompt(number)) for number in order if number != labels[row]][:1]
        yield row, [("right", prompt(labels[row])), *second]


def _caption_texts(result):
    for row in spread(np.arange(len(result.rows)), SHOWN):
        yield row, [("", result.rows.captions[row][0])]
