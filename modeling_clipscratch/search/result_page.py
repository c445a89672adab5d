"""Write the images that a search found as one HTML file that needs no other file."""

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path
from string import Template

from PIL import Image, ImageOps

from ..data.images.decode import BadImageError, decode_image
from ..utils.atomic_files import write_text
from ..utils.names import printable
from .search_index import Hit

SIDE = 320  # pixels of the longer side of a thumbnail

_FOLDER = Path(__file__).parent
HITS_CSS = (_FOLDER / "hits.css").read_text(encoding="utf-8")
_PAGE = Template((_FOLDER / "result_page.html").read_text(encoding="utf-8"))


def write_result_page(path: str | Path, hits: Sequence[Hit], *, query: str, image: Image.Image | None = None) -> None:
    """Write the hits of a search for a text, or for images similar to the one called `query`, as one page."""
    title = html.escape(printable(query))
    if image is not None:
        image = image.copy()
        image.thumbnail((SIDE, SIDE))
    page = _PAGE.substitute(
        title=title,
        styles=HITS_CSS,
        image="" if image is None else _img(image, title),
        note=note_of(hits),
        hits=hits_html(hits),
    )
    write_text(path, page)


def thumbnail(path: Path) -> Image.Image | None:
    """Return an upright RGB image of at most 320 pixels a side; `None` if the file is gone or broken."""
    try:
        image = decode_image(path, name=str(path), draft_size=SIDE)
    except BadImageError:
        return None
    if max(image.size) <= SIDE // 4:  # enlarged without smoothing, so that its pixels are visible
        image = ImageOps.scale(image, SIDE // max(image.size), resample=Image.Resampling.NEAREST)
    image.thumbnail((SIDE, SIDE))
    return image


def note_of(hits: Sequence[Hit]) -> str:
    return f"The {len(hits)} nearest images, best first. The number is the cosine, at most 1."


def hits_html(hits: Sequence[Hit]) -> str:
    """Return a list of thumbnails with rank, name and cosine, for the styles in `hits.css`."""
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
