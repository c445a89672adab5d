"""Write the images that a search found as one HTML file that needs no other file."""

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path
from string import Template

from PIL import Image, ImageOps

from ..data.images.decode import BadImageError, decode_image
from ..hub.errors_clipscratch import ClipScratchError
from ..utils.atomic_files import write_text
from ..utils.names import printable
from .search_index import Hit

SIDE = 320  # pixels of the longer side of a thumbnail

# Colours: --frame, --faint. A long name takes two lines; the rest of it is in the tooltip.
GRID = """
  .hits { list-style: none; margin: 0; padding: 0; display: grid; gap: 1rem .75rem;
          grid-template-columns: repeat(auto-fill, minmax(min(10.5rem, 44%), 1fr)); }
  .hits figure { margin: 0; }
  .hits .image { aspect-ratio: 1; background: var(--frame); border-radius: .4rem; display: grid; overflow: hidden;
                 place-items: center; text-align: center; font-size: .85rem; color: var(--faint); }
  .hits img { width: 100%; height: 100%; object-fit: contain; }
  .hits figcaption { display: grid; grid-template-columns: 1fr auto; margin-top: .35rem; font-size: .875rem; }
  .hits figcaption data { color: var(--faint); font-variant-numeric: tabular-nums; }
  .hits figcaption span { grid-column: 1 / -1; overflow: hidden; overflow-wrap: anywhere; display: -webkit-box;
                          -webkit-box-orient: vertical; -webkit-line-clamp: 2; }
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
<header>$image<div><h1>$title</h1><p>$note</p></div></header>
$hits
</html>
""")


def check_result_page(path: str | Path) -> None:
    """Check that the name of a page ends in `.html`.

    Raises:
        ClipScratchError: If it does not.
    """
    if Path(path).suffix.lower() != ".html":
        raise ClipScratchError(f"page={path} is written as HTML; let its name end in .html.")


def write_result_page(path: str | Path, hits: Sequence[Hit], *, query: str, image: Image.Image | None = None) -> None:
    """Write the hits of a search as one page.

    Args:
        path: Ends in `.html`.
        hits: The nearest first.
        query: The text, or the name of the image.
        image: The image that similar ones were searched for.
    """
    check_result_page(path)
    title = html.escape(printable(query))
    if image is not None:
        image = image.copy()
        image.thumbnail((SIDE, SIDE))
    page = PAGE.substitute(
        title=title,
        grid=GRID.strip(),
        image="" if image is None else _img(image, title),
        note=note_of(hits),
        hits=hits_html(hits),
    )
    write_text(path, page)


def thumbnail(path: Path) -> Image.Image | None:
    """Return an upright RGB image of at most 320 pixels a side; `None` if the file is gone or broken.

    Tiny images are enlarged without smoothing, so that their pixels are visible.
    """
    try:
        image = decode_image(path, name=str(path), draft_size=SIDE)
    except BadImageError:
        return None
    if max(image.size) <= SIDE // 4:
        image = ImageOps.scale(image, SIDE // max(image.size), resample=Image.Resampling.NEAREST)
    image.thumbnail((SIDE, SIDE))
    return image


def note_of(hits: Sequence[Hit]) -> str:
    """Return the line above the images."""
    return f"The {len(hits)} nearest images, best first. The number is the cosine, at most 1."


def hits_html(hits: Sequence[Hit]) -> str:
    """Return a list of thumbnails with rank, name and cosine, for the styles in `GRID`."""
    entries = []
    for rank, hit in enumerate(hits, start=1):
        image, name = thumbnail(hit.path), html.escape(printable(hit.name))
        shown = "cannot be read now" if image is None else _img(image, name)
        entries.append(
            f'<li><figure><div class="image">{shown}</div><figcaption><b>{rank}</b>'
            f'<data value="{hit.score}">{hit.score:.3f}</data><span title="{name}">{name}</span></figcaption></figure>'
        )
    return '<ol class="hits">\n' + "\n".join(entries) + "\n</ol>"


def _img(image, name):
    file = io.BytesIO()
    image.save(file, format="JPEG", quality=82)
    return f'<img src="data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}" alt="{name}">'
