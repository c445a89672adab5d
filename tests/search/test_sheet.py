"""Hits go in; the pages that come out hold the pictures, need nothing beside them and say what is missing."""

import re

import pytest
from PIL import Image

from modeling_clipscratch.search.result_page import SIDE, check_sheet, thumbnail, write_sheet
from modeling_clipscratch.search.search_index import Hit


@pytest.fixture
def hits(pictures):
    names = ["0.png", "<b>&.png", "deep/er/5.png"]
    (pictures / "1.png").rename(pictures / names[1])
    return [Hit(path=pictures / n, name=n, score=0.5 - 0.1 * place) for place, n in enumerate(names)]


def test_the_html_page_needs_nothing_beside_it(hits, tmp_path):
    write_sheet(tmp_path / "a.html", hits, query="a <dog> & 'snow'")
    page = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert re.findall(r'src="(.{10})', page) == ["data:image"] * 3
    assert not re.search(r"https?:|url\(|@import|<script|<link", page)
    assert "<h1>a &lt;dog&gt; &amp; &#x27;snow&#x27;</h1>" in page and "&lt;b&gt;&amp;.png" in page
    assert page.index("0.500") < page.index("0.400") < page.index("0.300")


def test_the_png_page_is_a_picture(hits, tmp_path):
    write_sheet(tmp_path / "a.PNG", hits, query="$a dog$", image=Image.new("RGB", (40, 30)))
    with Image.open(tmp_path / "a.PNG") as image:
        assert image.format == "PNG" and image.width > 500


@pytest.mark.parametrize("ending", ["png", "html"])
def test_a_picture_that_has_gone_is_said_and_stops_nothing(hits, tmp_path, ending):
    hits[0].path.unlink()
    write_sheet(tmp_path / f"a.{ending}", hits, query="a dog", image=Image.new("L", (5, 5)))
    if ending == "html":
        assert (tmp_path / "a.html").read_text().count("cannot be read now") == 1


def test_a_thumbnail_is_small_and_upright(tmp_path):
    image, exif = Image.new("RGB", (2000, 1000), "red"), Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.jpg", exif=exif)
    assert thumbnail(tmp_path / "a.jpg").size == (SIDE // 2, SIDE)


def test_another_ending_is_refused():
    with pytest.raises(ValueError, match=r"end it in .png or .html"):
        check_sheet("found.pdf")
