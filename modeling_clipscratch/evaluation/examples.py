"""A `Result` goes in; a sheet of its pictures with what the model made of them comes out as one PNG."""

from pathlib import Path

import numpy as np
from PIL import Image

from .evaluate_rows import Result
from .plots import BLUE, VERMILLION, new_figure, save_figure, shortened
from .zero_shot import cosines

COLUMNS, LINES = 6, 4
SEARCHES, BEST = 6, 5  # captions of a sheet, pictures for each
SIDE = 224  # pixels that a small picture is enlarged to, and a large one reduced to


def plot_examples(result: Result, path: str | Path) -> None:
    """Class data: up to 12 wrong and, for the rest of the sheet, right pictures. Caption data: captions as searches.

    The pictures are spread evenly over the rows, not chosen by how good they look; wrong ones come first and more
    of them than their share, since one learns from them.

    Args:
        result: of `evaluate_rows`.
        path: the PNG.
    """
    (_class_sheet if result.rows.kind == "class" else _search_sheet)(result, path)


def _class_sheet(result, path):
    labels, names = np.asarray(result.rows.labels), result.class_names
    wrong = _spread(np.flatnonzero(result.predicted != labels), COLUMNS * LINES // 2)
    right = _spread(np.flatnonzero(result.predicted == labels), COLUMNS * LINES - len(wrong))
    chosen = [*wrong, *right]
    lines = -(-len(chosen) // COLUMNS)
    figure = new_figure(1.75 * COLUMNS, 2.2 * lines + 0.5)
    share = f"{result.metrics['top1']:.1%} of {len(labels):,} right"
    title = f"{shortened(result.rows.name, 60)}: {share}; {len(wrong)} of the wrong come first"
    figure.suptitle(title, fontsize=11, fontweight="bold", parse_math=False)
    for place, row in enumerate(chosen, start=1):
        axes = figure.add_subplot(lines, COLUMNS, place)
        hit = result.predicted[row] == labels[row]
        _show(axes, result.rows.read_image(int(row)), BLUE if hit else VERMILLION, "-" if hit else "--")
        predicted = shortened(names[result.predicted[row]], 18)
        text = f"{'✓' if hit else '✗'} {predicted}, {result.confidence[row]:.0%}"
        axes.set_title(text, fontsize=8.5, color=BLUE if hit else VERMILLION, parse_math=False)
        truth = "" if hit else f"is {shortened(names[labels[row]], 20)}"
        axes.set_xlabel(truth, fontsize=8.5, parse_math=False)
    save_figure(figure, path)


def _search_sheet(result, path):
    rows, owners = result.rows, result.outcomes.caption_to_image
    captions = [caption for texts in rows.captions for caption in texts]
    chosen = np.searchsorted(owners, _spread(np.arange(len(rows)), SEARCHES))  # the first caption of each chosen row
    best = cosines(result.text_embeds[chosen], result.image_embeds).topk(min(BEST, len(rows))).indices.tolist()
    columns = len(best[0])
    figure = new_figure(1.75 * columns + 0.3, 2.25 * len(chosen) + 0.5)
    recall = result.metrics["text_to_image_recall@1"]
    figure.suptitle(
        f"{shortened(result.rows.name, 40)}: captions and their best pictures; first is right for {recall:.1%}",
        fontsize=11,
        fontweight="bold",
        parse_math=False,
    )
    bands = np.atleast_1d(figure.subfigures(len(chosen), 1))
    for band, caption, pictures in zip(bands, chosen, best, strict=True):
        band.suptitle(shortened(captions[caption], 17 * columns), fontsize=9.5, x=0.01, ha="left", parse_math=False)
        for place, row in enumerate(pictures, start=1):
            axes = band.add_subplot(1, columns, place)
            hit = row == owners[caption]
            _show(axes, rows.read_image(row), BLUE if hit else "0.8", "-")
            axes.set_xlabel(f"✓ {place}" if hit else f"{place}", fontsize=8.5, color=BLUE if hit else "0.35")
    save_figure(figure, path)


def _spread(indices, most):
    if len(indices) <= most:
        return indices.tolist()
    return indices[np.linspace(0, len(indices) - 1, most).round().astype(int)].tolist()


def _show(axes, picture, colour, dashes):
    picture = picture if isinstance(picture, Image.Image) else Image.fromarray(np.asarray(picture))
    scale = SIDE / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    # Enlarged without smoothing, so that one sees the pixels that the model saw.
    picture = picture.convert("RGB").resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BOX)
    axes.imshow(picture, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(color=colour, linewidth=2.5, linestyle=dashes)
