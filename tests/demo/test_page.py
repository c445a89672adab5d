"""Open the demo in a headless Chromium, and see what it shows, refuses and asks for."""

import http.client
import re
import socket
import sys

import numpy as np
import pytest
from PIL import Image

from modeling_clipscratch.evaluation.rank_labels import rank_labels
from modeling_clipscratch.search.demo_page import build_page, gradio_library, serve
from modeling_clipscratch.search.search_index import search
from modeling_clipscratch.search.update_index import update_index

LOCAL = {"127.0.0.1", "localhost"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for seed in range(5):
        pixels = np.random.default_rng(seed).integers(0, 256, (9, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{seed}.png")
    return folder


@pytest.fixture(scope="module")
def model(make_model):
    return make_model()


@pytest.fixture(scope="module")
def index(folder, model, word_processor):
    pytest.importorskip("faiss", reason="faiss is not installed: pip install 'clipscratch[search]'")
    return update_index(folder, model, word_processor, model_name="a model")[0]


@pytest.fixture(scope="module")
def asked():
    """The machines that this process asked for while the page was served and used."""
    hosts, ask = set(), socket.getaddrinfo
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", lambda host, *rest, **named: hosts.add(host) or ask(host, *rest, **named))
        yield hosts


@pytest.fixture(scope="module")
def address(model, word_processor, index, asked):
    pytest.importorskip("gradio", reason="gradio is not installed: pip install 'clipscratch[demo]'")
    page = build_page(model, word_processor, index, model_name="runs/tiny")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    yield serve(page, port, wait=False)
    page.close()


@pytest.fixture
def page(browser, address):
    """The page as a phone shows it; all that it asks for is of this machine."""
    page, urls = browser.new_page(viewport={"width": 390, "height": 844}), []
    page.on("request", lambda request: urls.append(request.url))
    page.goto(address)
    page.get_by_role("tab", name="Name a picture").wait_for()
    yield page
    page.close()
    assert {url for url in urls if not url.startswith((address, "data:", "blob:"))} == set()


@pytest.mark.slow
def test_labels_are_ranked_as_the_model_ranks_them(page, folder, model, word_processor):
    page.set_input_files("input[type=file]", str(folder / "3.png"))
    page.get_by_label("Labels").fill("red, blue square,circle")
    page.get_by_label("Template").fill("the {}")
    page.get_by_role("button", name="Name it").click()
    page.wait_for_selector(".confidence-set")
    labels = ["red", "blue square", "circle"]
    (ranked,) = rank_labels(model, word_processor, [Image.open(folder / "3.png")], labels, templates=["the {}"])
    shown = [row.inner_text() for row in page.locator(".confidence-set").all()]
    assert [" ".join(text.split()) for text in shown] == [f"{e['label']} {round(100 * e['score'])}%" for e in ranked]


@pytest.mark.slow
def test_a_sentence_finds_the_pictures_that_search_finds(page, index, model, word_processor):
    page.get_by_role("tab", name="Search pictures").click()
    page.get_by_placeholder("a dog in the snow").fill("a red circle")
    page.keyboard.press("Enter")
    page.wait_for_selector(".hits img")
    hits = search(index, model, word_processor, text="a red circle")
    shown = [image.get_attribute("alt") for image in page.locator(".hits img").all()]
    assert shown == [hit.name for hit in hits]
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.slow
@pytest.mark.parametrize(
    ("labels", "template", "sentence"),
    [("red", "a {}.", "two labels or more"), ("red, blue", "a photo", r"has no \{\}")],
)
def test_bad_input_is_said_on_the_page(page, folder, labels, template, sentence):
    page.set_input_files("input[type=file]", str(folder / "3.png"))
    page.get_by_label("Labels").fill(labels)
    page.get_by_label("Template").fill(template)
    page.get_by_role("button", name="Name it").click()
    page.get_by_text(re.compile(sentence)).wait_for()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200),
        ("localhost:{port}", 200),
        ("[::1]:{port}", 200),
        ("evil.example", 400),
        ("evil.example:{port}", 400),
        ("127.0.0.1.evil.example", 400),
        ("localhost@evil.example", 400),
        ("", 400),
    ],
)
@pytest.mark.parametrize("path", ["/", "/config", "/gradio_api/info"])
def test_only_this_machine_s_names_are_answered(address, host, status, path):
    port = int(address.rstrip("/").rpartition(":")[2])
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", path, headers={"Host": host.format(port=port)})
    assert connection.getresponse().status == status
    connection.close()


@pytest.mark.slow
def test_nothing_is_asked_of_other_machines(address, asked):
    """After the tests above: of gradio's own process too, not only of the page."""
    named = {host.decode() if isinstance(host, bytes) else host for host in asked}
    assert named <= LOCAL


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fake.jpg", "fake <b>.png", "fake.svg"])
def test_a_file_that_is_no_picture_is_told_in_one_sentence(address, name, tmp_path):
    gradio_client = pytest.importorskip("gradio_client")
    client = gradio_client.Client(address, verbose=False)
    (tmp_path / name).write_text("no picture")
    with pytest.raises(Exception, match=r"fake.*cannot be decoded \(not a picture of any known format") as error:
        client.predict(gradio_client.handle_file(tmp_path / name), "red, blue", "a {}", fn_index=0)
    assert "<" not in str(error.value)


@pytest.mark.slow
def test_a_port_that_is_taken_is_refused(address, model, word_processor):
    taken = int(address.rstrip("/").rpartition(":")[2])
    with pytest.raises(ValueError, match=f"port={taken} cannot be had"):
        serve(build_page(model, word_processor, model_name="tiny"), taken, wait=False)


def test_without_gradio_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(ValueError, match=r"pip install 'clipscratch\[demo\]'"):
        gradio_library()
