"""A query and its hits go in; one page to look at comes out: a PNG, or an HTML file that needs nothing beside it."""

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path
from string import Template

from PIL import Image, ImageOps

from ..data.images.decode import BadImageError, decode_image
from ..evaluation.plots.figures import new_figure, save_figure, shortened
from ..hub.errors_clipscratch import ClipScratchError
from ..utils.atomic_files import write_text
from ..utils.names import printable
from .search_index import Hit

SIDE = 320  # pixels of the longer side of a small picture
COLUMNS = 5

GRID = """
  .hits { list-style: none; margin: 0; padding: 0; display: grid; gap: 1rem .75rem;
          grid-template-columns: repeat(auto-fill, minmax(min(10.5rem, 44%), 1fr)); }
  .hits figure { margin: 0; }
  .hits .picture { aspect-ratio: 1; background: var(--frame); border-radius: .4rem; display: grid; overflow: hidden;
                   place-items: center; text-align: center; font-size: .85rem; color: var(--faint); }
  .hits img { width: 100%; height: 100%; object-fit: contain; }
  .hits figcaption { display: flex; flex-wrap: wrap; justify-content: space-between; margin-top: .35rem;
                     font-size: .875rem; }
  .hits figcaption span { width: 100%; overflow-wrap: anywhere; }
  .hits figcaption data { color: var(--faint); font-variant-numeric: tabular-nums; }
"""
PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
  :root { color-scheme: light dark; --paper: #fff; --ink: #1a1a1a; --faint: #595959; --frame: #eee; }
  @media (prefers-color-scheme: dark) {
    :root { --paper: #161616; --ink: #f2f2f2; --faint: #b0b0b0; --frame: #262626; }
  }
  body { margin: 0 auto; max-width: 1320px; padding: 1.25rem 1rem 3rem; background: var(--paper); color: var(--ink);
         font: 1rem/1.45 system-ui, sans-serif; }
  header { display: flex; gap: 1rem; align-items: center; margin-bottom: 1.25rem; }
  header img { max-width: 8rem; max-height: 8rem; border-radius: .4rem; flex: none; }
  h1 { font-size: 1.5rem; line-height: 1.25; margin: 0; overflow-wrap: anywhere; }
  header p { margin: .25rem 0 0; color: var(--faint); }
  $grid
</style>
<header>$picture<div><h1>$title</h1><p>$note</p></div></header>
$hits
</html>
""")


def check_sheet(path: str | Path) -> None:
    """Raises: ClipScratchError if the ending is neither `.png` nor `.html`."""
    if Path(path).suffix.lower() not in (".png", ".html"):
        raise ClipScratchError(f"sheet={path} has no ending that says its form; end it in .png or .html.")


def write_sheet(path: str | Path, hits: Sequence[Hit], *, query: str, image: Image.Image | None = None) -> None:
    """Writes the hits of a search on one sheet to look at.

    Args:
        path: ends in `.png` or `.html`, which says the form.
        hits: the best first.
        query: the text, or the name of the picture.
        image: the picture that others like it were looked for.

    >>> write_sheet("found.html", [Hit(path=Path("photos/0.png"), name="0.png", score=0.31)], query="a zero")
    >>> "a zero" in Path("found.html").read_text()
    True
    """
    check_sheet(path)
    if image is not None:
        image = image.copy()
        image.thumbnail((SIDE, SIDE))
    (_write_png if Path(path).suffix.lower() == ".png" else _write_html)(path, hits, query, image)


def thumbnail(path: Path) -> Image.Image | None:
    """Upright RGB, its longer side 320 pixels at most; tiny ones are enlarged, so that one sees their pixels. `None` if
    the picture is gone or broken by now."""
    try:
        image = decode_image(path, name=str(path), draft_size=SIDE)
    except BadImageError:
        return None
    if max(image.size) <= SIDE // 4:
        image = ImageOps.scale(image, SIDE // max(image.size), resample=Image.Resampling.NEAREST)
    image.thumbnail((SIDE, SIDE))
    return image


def note_of(hits: Sequence[Hit]) -> str:
    """The line above the pictures."""
    return f"{len(hits)} nearest, the best first; the number is the cosine, at most 1"


def hits_html(hits: Sequence[Hit]) -> str:
    """A list of small pictures with place, name and cosine; laid out by `GRID`, coloured by `--frame`, `--faint`."""
    entries = []
    for place, hit in enumerate(hits, start=1):
        picture, name = thumbnail(hit.path), html.escape(printable(hit.name))
        shown = "cannot be read now" if picture is None else _img(picture, name)
        entries.append(
            f'<li><figure><div class="picture">{shown}</div><figcaption><b>{place}</b>'
            f'<data value="{hit.score}">{hit.score:.3f}</data><span>{name}</span></figcaption></figure></li>'
        )
    return '<ol class="hits">\n' + "\n".join(entries) + "\n</ol>"


def _write_html(path, hits, query, image):
    title = html.escape(printable(query))
    page = PAGE.substitute(
        title=title,
        grid=GRID.strip(),
        picture="" if image is None else _img(image, title),
        note=html.escape(note_of(hits)),
        hits=hits_html(hits),
    )
    write_text(path, page)


def _img(image, name):
    file = io.BytesIO()
    image.save(file, format="JPEG", quality=82)
    return f'<img src="data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}" alt="{name}">'


def _write_png(path, hits, query, image):
    columns = min(COLUMNS, len(hits) + (image is not None))
    cells = [(hit.name, f"{place}    {hit.score:.3f}", thumbnail(hit.path)) for place, hit in enumerate(hits, start=1)]
    if image is not None:
        cells.insert(0, (query, "looked for", image))
    lines = -(-len(cells) // columns)
    figure = new_figure(max(2.3 * columns, 5), 2.6 * lines + 0.7)
    title = printable(query) if image is None else f"like {printable(query)}"
    figure.suptitle(f"{shortened(title, 16 * max(columns, 2))}\n", fontsize=13, fontweight="bold", parse_math=False)
    figure.text(
        0.5, 1 - 0.42 / figure.get_figheight(), note_of(hits), ha="center", va="top", fontsize=8.5, color="0.35"
    )
    for place, (name, above, picture) in enumerate(cells, start=1):
        axes = figure.add_subplot(lines, columns, place)
        if picture is None:
            axes.text(0.5, 0.5, "cannot be\nread now", ha="center", va="center", fontsize=9, color="0.35")
            axes.set_box_aspect(1)
        else:
            axes.imshow(ImageOps.pad(picture.convert("RGB"), (SIDE, SIDE), color="#eeeeee"))
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set(color="0.8", linewidth=2.5 if above == "looked for" else 0.8)
        axes.set_title(above, fontsize=9, loc="left", parse_math=False)
        axes.set_xlabel(shortened(printable(name), 26), fontsize=8, parse_math=False)
    save_figure(figure, path)
