"""Open the demo in a headless Chromium, and check what it shows, refuses and requests."""

import http.client
import re
import socket
import sys

import numpy as np
import pytest
from PIL import Image

from modeling_clipscratch.evaluation.rank_labels import rank_labels
from modeling_clipscratch.search import demo_page
from modeling_clipscratch.search.demo_page import build_page, gradio_library, serve
from modeling_clipscratch.search.image_index import update_index
from modeling_clipscratch.search.search_index import search_index

LONG = f"{'x' * 150} and a long name.png"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for seed, name in enumerate(["0.png", "1.png", "2.png", LONG]):
        pixels = np.random.default_rng(seed).integers(0, 256, (9, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    return folder


@pytest.fixture(scope="module")
def index(folder, model, word_processor):
    return update_index(folder, model, word_processor, model_name="a model")[0]


@pytest.fixture(scope="module")
def address(model, word_processor, index):
    pytest.importorskip("gradio", reason="gradio is not installed: pip install 'clipscratch[demo]'")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo_page, "own_prompts", lambda config: (["red", "blue square"], "the {}"))
        page = build_page(model, word_processor, index, model_name="runs/tiny")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    yield serve(page, port, wait=False)
    page.close()


@pytest.fixture(params=[390, 1400])
def page(request, browser, address):
    """The page on a phone and on a screen; it may request nothing from other machines."""
    page, urls = browser.new_page(viewport={"width": request.param, "height": 844}), []
    page.on("request", lambda request: urls.append(request.url))
    page.goto(address)
    page.get_by_role("tab", name="Classify an image").wait_for()
    yield page
    assert page.evaluate("document.documentElement.scrollWidth") <= request.param
    page.close()
    assert {url for url in urls if not url.startswith((address, "data:", "blob:"))} == set()


@pytest.mark.slow
def test_labels_are_ranked_as_by_the_model(page, folder, model, word_processor):
    assert page.get_by_label("Labels").input_value() == "red, blue square"  # the model's own
    assert page.get_by_label("Template").input_value() == "the {}"
    page.set_input_files("input[type=file]", str(folder / "2.png"))
    page.get_by_label("Labels").fill("red, blue square,lemur")
    page.get_by_role("button", name="Classify").click()
    page.wait_for_selector(".confidence-set")
    labels = ["red", "blue square", "lemur"]
    (ranked,) = rank_labels(model, word_processor, [Image.open(folder / "2.png")], labels, templates=["the {}"])
    shown = [" ".join(row.inner_text().split()) for row in page.locator(".confidence-set").all()]
    assert shown == [f"{entry['label']} {round(100 * entry['score'])}%" for entry in ranked]
    page.get_by_text("The tokenizer does not know these words: lemur.").wait_for()


@pytest.mark.slow
def test_a_text_finds_the_images_that_search_finds(page, index, model, word_processor):
    page.get_by_role("tab", name="Search images").click()
    page.get_by_placeholder("a dog in the snow").fill("a red lemur")
    page.keyboard.press("Enter")
    page.wait_for_selector(".hits img")
    hits = search_index(index, model, word_processor, text="a red lemur")
    assert [image.get_attribute("alt") for image in page.locator(".hits img").all()] == [hit.name for hit in hits]
    page.get_by_text("does not know these words: lemur.").wait_for()
    assert max(caption.bounding_box()["height"] for caption in page.locator("figcaption").all()) < 80


@pytest.mark.slow
@pytest.mark.parametrize(
    ("labels", "template", "message"),
    [("red", "a {}.", "two labels or more"), ("red, blue", "a photo", r"has no \{\}")],
)
def test_bad_input_is_reported_on_the_page(page, folder, labels, template, message):
    page.set_input_files("input[type=file]", str(folder / "2.png"))
    page.get_by_label("Labels").fill(labels)
    page.get_by_label("Template").fill(template)
    page.get_by_role("button", name="Classify").click()
    page.get_by_text(re.compile(message)).wait_for()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("host", "status"),
    [("127.0.0.1", 200), ("localhost:{port}", 200), ("evil.example:{port}", 400), ("127.0.0.1.evil.example", 400)],
)
def test_only_the_names_of_this_machine_are_answered(address, host, status):
    port = int(address.rstrip("/").rpartition(":")[2])
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", "/config", headers={"Host": host.format(port=port)})
    assert connection.getresponse().status == status
    connection.close()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fake.jpg", "fake <b>.png", "fake.svg"])
def test_a_file_that_is_not_an_image_is_reported_in_one_sentence(address, name, tmp_path):
    gradio_client = pytest.importorskip("gradio_client")
    client = gradio_client.Client(address, verbose=False)
    (tmp_path / name).write_text("no image")
    with pytest.raises(Exception, match=r"fake.*cannot be decoded \(not an? \w+ of any known format") as error:
        client.predict(gradio_client.handle_file(tmp_path / name), "red, blue", "a {}", fn_index=0)
    assert "<" not in str(error.value)


@pytest.mark.slow
def test_a_port_in_use_is_refused(address, model, word_processor):
    port = int(address.rstrip("/").rpartition(":")[2])
    with pytest.raises(ValueError, match=f"port={port} is in use"):
        serve(build_page(model, word_processor, model_name="tiny"), port, wait=False)


def test_without_gradio_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(ValueError, match=r"pip install 'clipscratch\[demo\]'"):
        gradio_library()
