"""A `Result` of caption data goes in; searches in both directions and the worst misses come out as PNGs."""

from itertools import chain
from pathlib import Path

import numpy as np

from ..evaluate_dataset import Result
from ..metrics.zero_shot import cosines
from .figures import BLUE, VERMILLION, WIDTH, new_figure, save_figure, shortened, show, spread, title

SEARCHES = 6  # lines of a sheet
BEST = 5  # answers shown for each
BEFORE = 3  # wrong answers shown before the right one


def plot_searches(result: Result, path: str | Path) -> None:
    """Captions, spread evenly over the rows, and the pictures closest to each; the right one is framed.

    Args:
        result: of `evaluate_dataset`.
        path: the PNG.
    """
    owners = result.outcomes.caption_to_image
    chosen = np.searchsorted(owners, spread(np.arange(len(result.dataset)), SEARCHES))  # first caption of each row
    lines = []
    for caption, best in zip(chosen, _best(result.text_embeds[chosen], result.image_embeds, BEST), strict=True):
        lines.append(
            (caption, [(row, f"✓ {n}" if row == owners[caption] else f"{n}") for n, row in enumerate(best, 1)])
        )
    figure = new_figure(WIDTH, 1.95 * len(lines) + 0.4)
    recall = result.metrics["text_to_image_recall@1"]
    title(figure, f"captions and their closest pictures; the first is right for {recall:.1%} of all captions")
    _draw(figure, result, lines, BEST)
    save_figure(figure, path)


def plot_captions(result: Result, path: str | Path) -> None:
    """Pictures, spread evenly over the rows, and the captions closest to each; its own are marked. Args, as above."""
    owners, captions = result.outcomes.caption_to_image, _captions(result)
    chosen = spread(np.arange(len(result.dataset)), SEARCHES)
    scores = cosines(result.image_embeds[chosen], result.text_embeds)
    figure = new_figure(WIDTH, 1.72 * len(chosen) + 0.4)
    recall = result.metrics["image_to_text_recall@1"]
    title(figure, f"pictures and their closest captions; the first is right for {recall:.1%} of all pictures")
    grid = figure.add_gridspec(len(chosen), 2, width_ratios=[1.5, WIDTH - 1.5])
    for line, (row, found) in enumerate(zip(chosen, scores, strict=True)):
        picture = figure.add_subplot(grid[line, 0])
        show(picture, result.read_image(row))
        picture.set_xlabel(f"its own: {result.outcomes.image_ranks[row]:,} of {len(captions):,}", fontsize=8)
        axes = figure.add_subplot(grid[line, 1])
        axes.axis("off")
        best = found.topk(min(BEST, len(captions)))
        for place, (score, caption) in enumerate(zip(best.values.tolist(), best.indices.tolist(), strict=True)):
            own = owners[caption] == row
            look = {"color": BLUE, "fontweight": "bold"} if own else {"color": "0.2"}
            text = shortened(captions[caption], 74 if own else 84)
            for x, part in ((0, "✓" if own else ""), (0.035, f"{score:.2f}"), (0.1, text)):
                where = {"va": "center", "transform": axes.transAxes, "parse_math": False, "in_layout": False}
                axes.text(x, 0.9 - 0.2 * place, part, fontsize=8.5, **where, **look)
    save_figure(figure, path)


def plot_retrieval_misses(result: Result, path: str | Path) -> None:
    """The captions whose pictures were found last: the picture, and those that were taken before it. Args, as above.

    No picture is made where every caption found its picture first.
    """
    outcomes = result.outcomes
    worst = np.argsort(-outcomes.text_ranks, kind="stable")
    worst = worst[outcomes.text_ranks[worst] > 1]
    _, first = np.unique(outcomes.caption_to_image[worst], return_index=True)  # one caption a picture
    worst = worst[np.sort(first)][:SEARCHES]
    if not len(worst):
        return
    lines = []
    for caption, best in zip(worst, _best(result.text_embeds[worst], result.image_embeds, BEFORE + 1), strict=True):
        own = int(outcomes.caption_to_image[caption])
        before = [(row, f"{n}") for n, row in enumerate((row for row in best if row != own), 1)][:BEFORE]
        lines.append((caption, [(own, "✗ its own"), *before]))
    figure = new_figure(WIDTH * (BEFORE + 1) / BEST, 1.95 * len(lines) + 0.4)
    title(figure, "captions whose own picture (left) came last")
    _draw(figure, result, lines, BEFORE + 1)
    save_figure(figure, path)


def worst_of_pictures(result: Result, most: int = 10) -> list[dict]:
    """The pictures whose best own caption ranks last: `key`, `rank`, `of`, `caption` (the first), `taken` for it."""
    captions, ranks = _captions(result), result.outcomes.image_ranks
    worst = [int(row) for row in np.argsort(-ranks, kind="stable")[:most] if ranks[row] > 1]
    if not worst:
        return []
    taken = _best(result.image_embeds[worst], result.text_embeds, 1)
    return [
        {
            "key": result.keys[row],
            "rank": int(ranks[row]),
            "of": len(captions),
            "caption": result.captions[row][0],
            "taken": captions[best],
        }
        for row, (best,) in zip(worst, taken, strict=True)
    ]


def _captions(result):
    return list(chain.from_iterable(result.captions))


def _best(queries, answers, most):
    return cosines(queries, answers).topk(min(most, len(answers))).indices.tolist()


def _draw(figure, result, lines, columns):
    """A band for each (caption, [(row, what stands below its picture)]); ✓ and ✗ mark the caption's own picture."""
    captions = _captions(result)
    for band, (caption, pictures) in zip(np.atleast_1d(figure.subfigures(len(lines), 1)), lines, strict=True):
        rank = f"  (its own: {result.outcomes.text_ranks[caption]:,} of {len(result.dataset):,})"
        text = shortened(captions[caption], 20 * columns - len(rank)) + rank
        band.suptitle(text, fontsize=9.5, x=0.01, ha="left", parse_math=False)
        for place, (row, below) in enumerate(pictures, start=1):
            axes = band.add_subplot(1, columns, place)
            colour, dashes = {"✓": (BLUE, "-"), "✗": (VERMILLION, "--")}.get(below[0], ("0.8", "-"))
            show(axes, result.read_image(int(row)), colour, dashes)
            axes.set_xlabel(below, fontsize=9, color="0.35" if colour == "0.8" else colour)
