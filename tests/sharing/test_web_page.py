"""Open a tiny model's page as a file in a headless Chromium, and compare it with Python."""

import base64
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import ExifTags, Image
from transformers import CLIPImageProcessorPil, ViTImageProcessorPil

from modeling_clipscratch.data.images.decode import decode_image
from modeling_clipscratch.data.images.preprocess import Preprocess
from modeling_clipscratch.evaluation.encode import encode_pixels, encode_texts
from modeling_clipscratch.evaluation.rank_labels import rank_labels
from modeling_clipscratch.sharing.export.web_page import ASSETS, preprocess_settings, read_package, write_page

for needed in ("onnx", "onnxruntime", "onnxscript"):
    pytest.importorskip(needed, reason=f"{needed} is not installed: pip install 'clipscratch[export]'")

NODE = shutil.which("node")
LABELS = ["red", "blue square", "circle"]
TOLERANCE = 0.02  # of a cosine or a probability: 8-bit weights in the browser, float32 in Python


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Folder of four images and a broken one."""
    folder = tmp_path_factory.mktemp("images")
    (folder / "broken.png").write_bytes(b"no image")
    for seed, size in enumerate([(9, 8), (8, 8), (40, 31), (16, 90)]):
        pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{seed}.png")
    return folder


@pytest.fixture(scope="module")
def trained(save_model):
    return save_model()


LONG = "a long name " * 20


@pytest.fixture(scope="module")
def site(trained, images, tmp_path_factory):
    if shutil.which("npm") is None:
        pytest.skip("there is no npm, which fetches what the page runs: install Node.js")
    where = tmp_path_factory.mktemp("site") / "page"
    try:
        return write_page(trained[0], where, images=images, labels=LABELS, template="the {}")
    except ValueError as error:
        if "npm cannot fetch" not in str(error):
            raise
        pytest.skip(f"the npm registry cannot be reached: {error}")


@pytest.fixture
def page(browser, site):
    """The page on a phone, opened as a file; it may request nothing but files of its folder."""
    page, urls, errors = browser.new_page(viewport={"width": 390, "height": 844}), [], []
    page.on("request", lambda request: urls.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(site.as_uri())
    page.locator("#files:enabled").wait_for(state="attached")
    yield page
    assert page.locator("html").bounding_box()["width"] <= 390
    page.close()
    assert {url for url in urls if not url.startswith((site.parent.as_uri(), "blob:"))} == set()
    assert errors == []


def shown(page, selector):
    """{text: number} of the rows of a list, in their order."""
    page.locator(f"{selector} data").first.wait_for()
    rows = page.locator(f"{selector} li").all()
    return {
        row.locator("b, span").first.inner_text().split("\n")[0]: float(row.locator("data").get_attribute("value"))
        for row in rows
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", ["0.png", "3.png"])
def test_labels_have_the_probabilities_that_python_gives_them(page, images, trained, word_processor, name):
    page.set_input_files("#files", str(images / name))
    probabilities = shown(page, "#bars")
    image = decode_image(images / name, name=name)
    (ranked,) = rank_labels(trained[1], word_processor, [image], LABELS, templates=["the {}"])
    assert probabilities == pytest.approx({entry["label"]: entry["score"] for entry in ranked}, abs=TOLERANCE)
    assert sum(probabilities.values()) == pytest.approx(1)
    page.get_by_label("Labels").fill("a photo\nlemur")
    page.locator("#bars").get_by_text("a photo").wait_for()
    assert set(shown(page, "#bars")) == {"a photo", "lemur"}
    assert "does not know these words: lemur." in page.locator("#label-note").inner_text()


@pytest.mark.slow
def test_a_text_finds_exported_and_chosen_images(page, images, trained, word_processor):
    model = trained[1]
    page.set_input_files("#files", {"name": "mine.png", "mimeType": "", "buffer": (images / "2.png").read_bytes()})
    shown(page, "#bars")
    page.get_by_label("What should the image show?").fill("a red circle")
    page.keyboard.press("Enter")
    cosines = shown(page, "#hits")
    preprocess = Preprocess(word_processor.image_processor)
    pixels = np.stack([preprocess(decode_image(images / f"{seed}.png", name="")) for seed in range(4)])
    embeds = encode_pixels(model, pixels, preprocess.mean, preprocess.std)
    scores = (embeds @ encode_texts(model, word_processor.tokenizer, ["a red circle"])[0]).tolist()
    expected = {f"{seed}.png": score for seed, score in enumerate(scores)} | {"mine.png": scores[2]}
    assert cosines == pytest.approx(expected, abs=TOLERANCE)
    assert list(cosines.values()) == sorted(cosines.values(), reverse=True)


@pytest.mark.slow
def test_bad_input_is_reported_on_the_page(page, images):
    page.get_by_label("Labels").fill("red")
    page.set_input_files("#files", str(images / "0.png"))
    page.get_by_text("Write at least two labels").wait_for()
    page.get_by_label("Labels").fill("red, blue")
    page.get_by_label("Template").fill("the")
    page.get_by_text("The template has no {}").wait_for()
    page.set_input_files("#files", {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"no image"})
    page.get_by_role("alert").get_by_text("notes.txt is not an image that this browser can read").wait_for()


@pytest.mark.parametrize(
    "image_processor",
    [
        ViTImageProcessorPil(size={"height": 12, "width": 9}, resample=2),
        ViTImageProcessorPil(size={"height": 7, "width": 30}, resample=3),
        ViTImageProcessorPil(size={"height": 13, "width": 13}, resample=1, image_mean=[0.1, 0.2, 0.3]),
        CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 14, "width": 12}),
    ],
    ids=["bilinear", "bicubic", "lanczos", "shorter edge, crop"],
)
@pytest.mark.parametrize("size", [(31, 40), (40, 31), (9, 7), (300, 200)])
def test_pixels_are_those_of_the_image_processor_to_the_bit(image_processor, size):
    if NODE is None:
        pytest.skip("there is no node, which runs the page's script: install Node.js")
    pixels = np.random.default_rng(size[0]).integers(0, 256, (*size, 3), dtype=np.uint8)
    given = {"image": base64.b64encode(pixels.tobytes()).decode(), "height": size[0], "width": size[1]}
    given["settings"] = preprocess_settings(image_processor)
    script = (ASSETS / "pixels.js").read_text() + (
        "const given = JSON.parse(require('fs').readFileSync(0));\n"
        "const data = new Uint8Array(Buffer.from(given.image, 'base64'));\n"
        "const fitted = fit({ width: given.width, height: given.height, data }, given.settings);\n"
        "const values = Array.from(normalise(fitted, given.settings));\n"
        "console.log(JSON.stringify({ ...fitted, data: Array.from(fitted.data), values }));"
    )
    ended = subprocess.run([NODE, "-e", script], input=json.dumps(given), capture_output=True, text=True, check=True)
    found = json.loads(ended.stdout)
    expected = Preprocess(image_processor)(Image.fromarray(pixels))
    assert (found["height"], found["width"]) == expected.shape[:2]
    np.testing.assert_array_equal(np.array(found["data"]).reshape(expected.shape), expected)
    whole = image_processor(Image.fromarray(pixels), return_tensors="np")["pixel_values"][0]
    np.testing.assert_allclose(np.array(found["values"]).reshape(whole.shape), whole, atol=1e-6)


def test_what_the_page_cannot_prepare_is_refused():
    with pytest.raises(ValueError, match="resample=0.*it can resize with resample 1, 2 or 3"):
        preprocess_settings(ViTImageProcessorPil(size={"height": 8, "width": 8}, resample=0))
    with pytest.raises(ValueError, match="crop=.9, 9.*not pad"):
        preprocess_settings(CLIPImageProcessorPil(size={"shortest_edge": 8}, crop_size={"height": 9, "width": 9}))


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1400])
def test_long_names_do_not_break_the_layout(browser, site, images, width):
    page = browser.new_page(viewport={"width": width, "height": 844})
    page.goto(site.as_uri())
    page.locator("#files:enabled").wait_for(state="attached")
    for name in ("x" * 200, LONG):
        buffer = (images / "0.png").read_bytes()
        page.set_input_files("#files", {"name": f"{name}.png", "mimeType": "", "buffer": buffer})
        shown(page, "#bars")
    page.get_by_label("Labels").fill(f"{'y' * 100}\n{LONG}")
    page.get_by_label("What should the image show?").fill("red")
    page.keyboard.press("Enter")
    shown(page, "#hits")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert max(line.bounding_box()["height"] for line in page.locator("#hits li > span").all()) < 60
    page.close()


def test_a_package_that_was_changed_is_refused(tmp_path, monkeypatch):
    (tmp_path / "npm").write_text("#!/bin/sh\necho a > a.tgz\n")
    (tmp_path / "npm").chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda name: str(tmp_path / "npm"))
    with pytest.raises(ValueError, match="some@1 has SHA-512 .* instead of right"):
        read_package("some@1", "right", ["file"])


def test_a_page_has_the_model_s_own_prompts_by_default_and_no_broken_images(
    trained, images, tmp_path, monkeypatch, caplog
):
    own, module = (["salt, pepper", "sugar"], "a photo of {}."), sys.modules[write_page.__module__]
    monkeypatch.setattr(module, "own_prompts", lambda config: own)
    monkeypatch.setattr(module, "read_programs", dict)
    monkeypatch.setattr(module, "write_towers", lambda *args: {"files": {"int8": {}}})
    text = write_page(trained[0], tmp_path / "page", images=images).with_name("settings.js").read_text()
    settings = json.loads(text.removeprefix("const SETTINGS = ").removesuffix(";\n"))
    assert settings["labels"] == "salt, pepper\nsugar" and settings["template"] == "a photo of {}."
    assert settings["images"]["names"] == ["0.png", "1.png", "2.png", "3.png"]
    assert "left out: " in caplog.text and "broken.png: cannot be decoded" in caplog.text


TOKENS = """
const fs = require("fs");
(async () => {
  fs.writeFileSync("tokenizers.mjs", require("zlib").gunzipSync(Buffer.concat(pieces.tokenizers)));
  const { Tokenizer } = await import(process.cwd() + "/tokenizers.mjs");
  const json = (name) => JSON.parse(fs.readFileSync(name));
  const tokenizer = new Tokenizer(json("tokenizer.json"), json("tokenizer_config.json"));
  console.log(JSON.stringify(json("texts.json").map((text) => tokensOf(tokenizer, text, 12))));
})();
"""


@pytest.mark.slow
def test_texts_have_the_tokens_of_the_tokenizer_and_are_cut_alike(site, word_processor, tmp_path):
    if NODE is None:
        pytest.skip("there is no node, which runs the page's script: install Node.js")
    texts = ["", "a red square", "The photo, of nothing known", "blue " * 30, "a the of " * 4]
    word_processor.tokenizer.save_pretrained(tmp_path)
    scripts = [ASSETS / "payload.js", *sorted((site.parent / "payload").glob("tokenizers-*.js")), ASSETS / "embed.js"]
    (tmp_path / "all.cjs").write_text("\n".join([*(path.read_text() for path in scripts), TOKENS]))
    (tmp_path / "texts.json").write_text(json.dumps(texts))
    ended = subprocess.run([NODE, "all.cjs"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert json.loads(ended.stdout) == word_processor.tokenizer(texts, truncation=True, max_length=12)["input_ids"]


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "ending", "tolerance"), [("RGB", "jpg", 0), ("RGB", "png", 0), ("RGBA", "png", 1)])
def test_a_file_is_decoded_as_in_python(browser, site, tmp_path, mode, ending, tolerance):
    """The JPEG is rotated by its EXIF; on transparency over white, roundings may differ by one step."""
    image = Image.effect_noise((53, 37), 90).resize((106, 74)).convert(mode)
    if mode == "RGBA":
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    path = tmp_path / f"image.{ending}"
    image.save(path, **({"exif": exif} if ending == "jpg" else {}))
    context = browser.new_context(bypass_csp=True)  # to call the page's own functions
    page = context.new_page()
    page.goto(site.as_uri())
    decoded = "async (text) => { const { width, height, data } = await decode(new File([fromBase64(text)], 'p'));"
    found = page.evaluate(
        f"{decoded} return {{ width, height, data: [...data] }}; }}", base64.b64encode(path.read_bytes()).decode()
    )
    context.close()
    expected = np.asarray(decode_image(path, name="")).astype(int)
    assert (found["height"], found["width"]) == expected.shape[:2]
    assert np.abs(np.array(found["data"]).reshape(expected.shape) - expected).max() <= tolerance
