"""Check that the page of a search is complete, safe and names what is missing."""

import re

import pytest
from PIL import Image

from modeling_clipscratch.search.result_page import SIDE, thumbnail, write_result_page
from modeling_clipscratch.search.search_index import Hit


@pytest.fixture
def hits(images):
    names = ["0.png", "<b>&.png", "deep/er/5.png"]
    (images / "1.png").rename(images / names[1])
    return [Hit(path=images / name, name=name, score=0.5 - 0.1 * rank) for rank, name in enumerate(names)]


def test_the_page_needs_no_other_file_and_escapes_names(hits, tmp_path):
    write_result_page(tmp_path / "a.html", hits, query="a <dog> & 'snow'")
    page = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert re.findall(r'src="(.{10})', page) == ["data:image"] * 3
    assert not re.search(r"https?:|url\(|@import|<script|<link", page)
    assert "<h1>a &lt;dog&gt; &amp; &#x27;snow&#x27;</h1>" in page and "&lt;b&gt;&amp;.png" in page
    assert page.index("0.500") < page.index("0.400") < page.index("0.300")


def test_an_image_that_is_gone_is_named_and_the_page_is_written(hits, tmp_path):
    hits[0].path.unlink()
    write_result_page(tmp_path / "a.html", hits, query="a dog", image=Image.new("L", (5, 5)))
    assert (tmp_path / "a.html").read_text().count("cannot be read now") == 1


def test_a_thumbnail_is_small_and_upright(tmp_path):
    image, exif = Image.new("RGB", (2000, 1000), "red"), Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.jpg", exif=exif)
    assert thumbnail(tmp_path / "a.jpg").size == (SIDE // 2, SIDE)


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1400])
def test_a_long_name_does_not_break_the_layout(browser, images, save_image, tmp_path, width):
    names = ["0.png", "x" * 200 + ".png", "a name with spaces " * 11 + ".png"]
    for seed, name in enumerate(names):
        save_image(images / name, seed)
    hits = [Hit(path=images / name, name=name, score=0.3) for name in names]
    write_result_page(tmp_path / "a.html", hits, query="y" * 300)
    page = browser.new_page(viewport={"width": width, "height": 844})
    page.goto((tmp_path / "a.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    boxes = [caption.bounding_box() for caption in page.locator("figcaption").all()]
    assert max(box["height"] for box in boxes) < 80
    page.close()
