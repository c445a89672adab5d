"""A `Result` and a folder go in; every picture that it has something for comes out there, with how to read it."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ..evaluate_dataset import Result
from .calibration import plot_calibration
from .class_sheets import plot_examples, plot_extremes
from .confusion import plot_confusion
from .embedding_map import plot_embeddings
from .retrieval_sheets import plot_captions, plot_retrieval_misses, plot_searches
from .similarity import plot_similarity
from .text_maps import plot_maps

# Every file that may be drawn: where an earlier report had one and the next has nothing to show, it goes.
FILES = ("confusion.png", "calibration.png", "hits_and_misses.png", "examples.png", "text_to_image.png")
FILES += ("image_to_text.png", "misses.png", "similarity.png", "embeddings.png", "text_maps.png")
EXTREMES = (
    "Above, pictures that the model got right and was surest of; below, the mistakes that it was surest of. "
    "The number is its confidence."
)
EXAMPLES = "Pictures as they come, not chosen: a blue frame and ✓ for right, a dashed red frame and ✗ for wrong."
CONFUSION = "A row is a true class, a column what the model said; all that lies off the diagonal is a mistake."
CALIBRATION = (
    "Of the pictures predicted with 70 % confidence, 70 % should be right: a dot below the dashed line means too sure "
    "of itself, above it too modest. Whiskers are 95 % intervals; the bars count the pictures."
)
SIMILARITY = "The darker, the closer picture and text are for the model; framed are the pairs that belong together."
CLASS_MAP = (
    "Each mark is a picture; marks close together are alike to the model. Well-parted islands of one mark each are "
    "classes that it tells apart; distances between islands mean little."
)
CAPTION_MAP = (
    "The shorter the grey line, the closer a picture and its caption are to the model; neighbours are alike to it, "
    "distances across the map mean little."
)
SEARCHES = "Each caption as a search, with the five closest pictures, closest first; its own picture is framed."
CAPTIONS = "Each picture with its five closest captions and their cosines; its own captions are blue and have a ✓."
MISSES = "Captions that found their own picture (dashed frame) last, with its rank; beside it what came before it."
MAPS = (
    "The brighter, the more the place adds to the cosine with the text above it, which is the number below. A hint, "
    "not a proof: covering the place may give another answer."
)


@dataclass(frozen=True, kw_only=True)
class Picture:
    """
    Args:
        path: the PNG.
        title: two or three words.
        reading: a sentence or two on how to read it.
    """

    path: Path
    title: str
    reading: str


def draw_pictures(result: Result, folder: Path) -> list[Picture]:
    """Draws them into the folder, those of more weight first; leaves out what has nothing to show."""
    if result.kind == "class":
        plot_matrix = partial(plot_confusion, result.confusion, result.class_names)
        found = [
            ("confusion.png", "Confusion", CONFUSION, plot_matrix),
            ("calibration.png", "Calibration", CALIBRATION, partial(plot_calibration, result.outcomes)),
            ("hits_and_misses.png", "Surest hits, worst misses", EXTREMES, partial(plot_extremes, result)),
            ("examples.png", "Ordinary pictures", EXAMPLES, partial(plot_examples, result)),
        ]
    else:
        found = [
            ("text_to_image.png", "Searches by caption", SEARCHES, partial(plot_searches, result)),
            ("image_to_text.png", "Captions of pictures", CAPTIONS, partial(plot_captions, result)),
            ("misses.png", "Worst misses", MISSES, partial(plot_retrieval_misses, result)),
        ]
    reading = CLASS_MAP if result.kind == "class" else CAPTION_MAP
    found += [
        ("similarity.png", "Similarities", SIMILARITY, partial(plot_similarity, result)),
        ("embeddings.png", "Map of embeddings", reading, partial(plot_embeddings, result)),
        ("text_maps.png", "What speaks for a text", MAPS, partial(plot_maps, result.maps)),
    ]
    for name, _, _, plot in found:
        plot(folder / name)
    pictures = [Picture(path=folder / name, title=title, reading=reading) for name, title, reading, _ in found]
    return [picture for picture in pictures if picture.path.is_file()]
