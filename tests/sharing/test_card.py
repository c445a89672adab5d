"""Write cards of tiny runs, complete and with files missing or damaged, and run their examples."""

import html
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard, ModelCardData, metadata_load
from huggingface_hub.repocard_data import eval_results_to_model_index
from PIL import Image

from modeling_clipscratch.cli import train as run_train
from modeling_clipscratch.sharing.model_card import eval_command, write_card
from modeling_clipscratch.training.saving.run_folder import OUR_CARD
from modeling_clipscratch.utils.checksums import SUMS

TINY = {
    "text_tower": "distilbert", "text_hidden_size": 16, "text_num_layers": 1, "text_num_heads": 2,
    "vision_tower": "vit", "vision_hidden_size": 16, "vision_num_layers": 1, "vision_num_heads": 2,
    "image_size": 8, "patch_size": 4, "projection_dim": 16, "max_steps": 2, "disable_tqdm": True, "bf16": False,
}  # fmt: skip
# Each example with names of its own, in a process to which this package is not installed.
ALONE = """
import sys
sys.modules["modeling_clipscratch"] = None
for example in sys.argv[1:]:
    print("----")
    exec(example, {})
"""
COLOURS = {"red": (220, 30, 30), "green": (30, 200, 60), "blue": (40, 60, 230)}


def train(folder, **changes):
    recipe = folder.parent / f"{folder.name}.yaml"
    recipe.write_text(yaml.safe_dump({**TINY, "cache_dir": str(folder.parent / "cache"), **changes}))
    run_train.main([str(recipe), "--output_dir", str(folder)])
    return folder


@pytest.fixture(scope="module")
def class_run(tmp_path_factory):
    """Run folder of digits, with its card."""
    settings = {"dataset": "digits", "freeze_text": False, "load_best_model_at_end": False}
    return train(tmp_path_factory.mktemp("runs") / "tiny-digits", **settings)


@pytest.fixture(scope="module")
def caption_run(tmp_path_factory):
    """Run folder of a folder of captioned images, measured on validation, which also chose the checkpoint."""
    base = tmp_path_factory.mktemp("secret")
    (base / "photos").mkdir()
    lines = ["file_name,caption"]
    for number in range(60):
        name, colour = list(COLOURS.items())[number % 3]
        Image.fromarray(np.full((12, 12, 3), colour, np.uint8)).save(base / "photos" / f"{number}.png")
        lines.append(f"{number}.png,something {name} number {number}")
    (base / "photos" / "metadata.csv").write_text("\n".join(lines))
    settings = {"test_split": "none", "global_batch_size": 16, "loss": "sigmoid"}
    settings |= {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 1, "save_steps": 1}
    return train(base / "tiny-captions", dataset=str(base / "photos"), **settings)


@pytest.fixture
def copy(class_run, tmp_path):
    """The class run's folder, to change."""
    ignored = shutil.ignore_patterns("checkpoint-*", SUMS)  # without digests its files may be changed
    return Path(shutil.copytree(class_run, tmp_path / "tiny-digits", ignore=ignored))


def text_of(folder):
    return (folder / "README.md").read_text()


def examples(text):
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def change(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def change_run(copy, **changes):
    """Change the facts about a run; those about its dataset one by one."""
    state = json.loads((copy / "trainer_state.json").read_text())
    facts = state["stateful_callbacks"]["TrainingRecord"]["attributes"]
    changes["dataset"] = {**facts["dataset"], **changes.pop("dataset", {})}
    facts.update(changes)
    (copy / "trainer_state.json").write_text(json.dumps(state))


@pytest.mark.slow
@pytest.mark.parametrize(("run", "first"), [("class_run", "the digit"), ("caption_run", "a boat with a white sail")])
def test_examples_run_unchanged_where_the_package_is_not_installed(request, run, first, tmp_path):
    folder = request.getfixturevalue(run)
    code = examples(text_of(folder))
    assert len(code) == 2
    places = {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    settings = {"cwd": folder.parent, "env": {**os.environ, **places}, "stdin": subprocess.DEVNULL}
    done = subprocess.run([sys.executable, "-I", "-c", ALONE, *code], capture_output=True, text=True, **settings)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "custom code" not in done.stdout + done.stderr  # nobody is asked anything
    assert "of type" not in done.stderr  # transformers' warning of an unknown model type
    ranked, piped = done.stdout.split("----\n")[1:]
    assert first in ranked and ranked.count("%") >= 3 and piped.count("%") == 3 and "tensor([[" in ranked


def test_examples_name_the_repository_if_there_is_one(copy):
    write_card(copy, repo_id="ann/my-clip")
    text = text_of(copy)
    assert text.count('"ann/my-clip"') == 3 and "# my-clip\n" in text and "--model ann/my-clip" in text
    assert "beside the folder" not in text and "beside the folder" in write_card(copy).read_text()


def check_like_the_hub(data):
    """The rules of the Hub's `validate-yaml`, as far as its answers and huggingface_hub's sources show them."""
    repo = re.compile(r"^(?:[\w-]+/)?[\w.-]+$", re.ASCII)
    assert data["library_name"] == "transformers" and data["pipeline_tag"] == "zero-shot-image-classification"
    for name in ("tags", "datasets", "metrics", "base_model"):
        values = data.get(name, [])
        assert isinstance(values, list) and len(set(values)) == len(values) and all(isinstance(v, str) for v in values)
    assert all(repo.fullmatch(name) for name in [*data.get("datasets", []), *data.get("base_model", [])])
    for result in (result for model in data.get("model-index", []) for result in model["results"]):
        assert isinstance(result["dataset"]["name"], str) and repo.fullmatch(result["dataset"]["type"])
        assert all(isinstance(metric["value"], float) for metric in result["metrics"]) and result["metrics"]


def test_metadata_are_what_huggingface_hub_reads_and_writes(class_run, caption_run):
    check_like_the_hub(metadata_load(caption_run / "README.md"))
    data = metadata_load(class_run / "README.md")
    check_like_the_hub(data)
    card = ModelCard.load(class_run / "README.md")
    assert isinstance(card.data, ModelCardData) and card.data.to_dict() == data
    assert eval_results_to_model_index("tiny-digits", card.data.eval_results) == data["model-index"]
    assert not {"language", "license", "datasets", "base_model"} & set(data)
    (result,) = data["model-index"][0]["results"]
    assert result["dataset"] == {"name": "digits", "type": "digits", "split": "test"}
    measured = json.loads((class_run / "metrics.json").read_text())["digits"]
    assert result["metrics"][0]["type"] == "accuracy" and result["metrics"][0]["value"] == measured["top1"]
    assert result["metrics"][0]["args"] == {"ci95": measured["top1_ci95"]}


def test_towers_and_data_of_the_hub_are_named_and_linked(copy):
    towers = {"text": {"name": "distilbert/distilbert-base-uncased", "source": "hub"},
              "vision": {"name": "vit-tiny", "source": "local"}}  # fmt: skip
    change_run(copy, towers=towers)
    change_run(copy, dataset={"name": "clip-benchmark/wds_digits", "source": "hub", "revision": "abc"})
    write_card(copy, repo_id="ann/clip", license="apache-2.0", language="de")
    data, text = metadata_load(copy / "README.md"), text_of(copy)
    check_like_the_hub(data)
    assert data["base_model"] == ["distilbert/distilbert-base-uncased"] and data["base_model_relation"] == "finetune"
    assert data["datasets"] == ["clip-benchmark/wds_digits"] and data["license"] == "apache-2.0"
    assert data["language"] == "de"
    assert data["model-index"][0]["results"][0]["dataset"]["type"] == "clip-benchmark/wds_digits"
    assert "[distilbert/distilbert-base-uncased](https://huggingface.co/distilbert/distilbert-base-uncased)" in text
    assert "local weights `vit-tiny`" in text and "keep their licence" in text
    assert "(https://huggingface.co/datasets/clip-benchmark/wds_digits), revision `abc`" in text


def test_the_card_holds_what_the_run_knows(class_run):
    text = text_of(class_run)
    assert text.index("---\n") == 0 and OUR_CARD in text
    for part in (
        "| text tower | distilbert from scratch; all parameters trained |",
        "1,257 train, 180 validation, 360 test images",
        "10 classes: zero, one, two,",
        "prompts, such as `a photo of the digit {}.`.",
        "Split test, 360 images:",
        "clipscratch eval --model tiny-digits --dataset digits\n",
        " s with evaluations; fp32; 1 process on ",
        "![Loss, learning rate and validation during the run](curves.png)",
        "| images | 8x8 pixels |",
        "The weights are those of the last step, 2; no validation result chose them.",
        "| `metrics.json` | the figures of the run on the test split |",
    ):
        assert part in text, part
    metrics = json.loads((class_run / "metrics.json").read_text())["digits"]
    value, low, high = (f"{100 * share:.1f}" for share in (metrics["top1"], *metrics["top1_ci95"]))
    assert f"| `top1` | {value} % ({low} to {high}) |" in text
    recipe = yaml.safe_load(re.search(r"```yaml\n(.*?)```", text, re.DOTALL).group(1))
    assert recipe == yaml.safe_load((class_run / "recipe.yaml").read_text())


def test_a_card_of_captions_says_what_chose_the_checkpoint_and_names_no_path(caption_run):
    text = text_of(caption_run)
    assert "54 train, 6 validation images, 54 captions to train on" in text
    assert "Split validation, 6 images:" in text and "--split validation" in text
    assert "| loss | sigmoid |" in text and "classes:" not in text and "prompt" not in text
    assert re.search(r"`image_to_text_recall@1` \| [\d.]+ % \([\d.]+ to [\d.]+\)", text)
    assert re.search(r"those of step [12] of 2, which had the best `text_to_image_recall@5` on the validation", text)
    assert "This split also chose the checkpoint, so these figures are optimistic." in text
    assert "secret" not in text and str(caption_run.parent) not in text
    assert "on `photos`" in text and "dataset: photos\n" in text


def test_the_name_of_local_data_becomes_what_the_hub_allows(copy):
    change_run(copy, dataset={"name": "bücher & co", "source": "local"})
    write_card(copy)
    data = metadata_load(copy / "README.md")
    check_like_the_hub(data)
    assert data["model-index"][0]["results"][0]["dataset"]["type"] == "b-cher-co" and "`bücher & co`" in text_of(copy)


def test_the_command_has_the_data_options_of_the_recipe_and_no_path():
    recipe = {"dataset_config": "en", "split_column": "none", "class_names": ["a", "b c"], "on_bad_row": "skip"}
    recipe |= {"cache_dir": "cache", "learning_rate": 0.1, "templates": None}
    words = "--split validation --class_names a 'b c' --split_column none --on_bad_row skip --dataset_config en"
    command = eval_command("MODEL", "birds", "validation", recipe)
    assert command == f"clipscratch eval --model MODEL --dataset birds {words}"


def headings_of_empty_sections(text):
    lines = [line for line in text.split("---", 2)[2].splitlines() if line.strip()]
    pairs = zip(lines, [*lines[1:], "## end"], strict=True)
    return [a for a, b in pairs if a.startswith("## ") and b.startswith("#")]


OF_A_RUN = ("trainer_state.json", "metrics.json", "versions.json", "curves.png", "recipe.yaml")


@pytest.mark.parametrize("missing", [OF_A_RUN[:1], OF_A_RUN[1:2], OF_A_RUN])
def test_a_card_of_a_folder_with_missing_files_reads_well(copy, missing):
    for name in missing:
        (copy / name).unlink()
    text = write_card(copy).read_text()
    check_like_the_hub(metadata_load(copy / "README.md"))
    assert headings_of_empty_sections(text) == []
    assert "None" not in text and "\n\n\n" not in text and ".." not in text.replace("...", "")
    assert ("## Results" in text) == ("metrics.json" not in missing)
    assert "curves.png" not in text or "curves.png" not in missing
    assert len(examples(text)) == 2


EVIL = [
    "<script>alert(1)</script>", "a|b", "[x](javascript:y)", "`c` *d*", "two\nlines\n---\n# head", "```",
    "_e_ $f$ &lt;",
]  # fmt: skip


@pytest.mark.parametrize("name", EVIL)
def test_names_are_never_read_as_markdown_or_html(copy, name):
    markdown_it = pytest.importorskip("markdown_it", reason="markdown-it-py is not installed")
    data = {"name": name, "source": "local", "class_names": [*EVIL, "z"], "templates": [f"{name} {{}}"]}
    change_run(copy, dataset=data)
    change_run(copy, towers={side: {"name": name, "source": "local"} for side in ("text", "vision")})
    change(copy / "versions.json", device=name)
    recipe = {"dataset": name, "text_tower": " ".join(["x" * 90, "```", "y" * 90])}
    (copy / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    text = write_card(copy, repo_id="ann/clip").read_text()
    body = text.split("\n---\n", 1)[1]
    page = markdown_it.MarkdownIt("commonmark", {"html": True}).enable("table").render(body)
    assert "<script" not in page and 'href="javascript' not in page and "<em>" not in page
    shown, one_line = html.unescape(re.sub("<[^>]+>", "", page)), " ".join(name.split())
    assert f"local weights {one_line};" in shown and f"{one_line} {{}}" in shown
    assert ", ".join(" ".join(evil.split()) for evil in EVIL) + ", z." in shown
    assert page.count("<table>") == 3 and page.count("<h1>") == 1 and page.count("<pre>") == 4


@pytest.mark.parametrize(
    ("name", "content"), [("config.json", b""), ("processor_config.json", b'{"a": '), ("metrics.json", b"\x80\xff")]
)
def test_a_damaged_file_is_named_and_the_card_kept(copy, name, content):
    before = (copy / "README.md").read_bytes()
    (copy / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} is damaged") as error:
        write_card(copy)
    assert "\n" not in str(error.value) and (copy / "README.md").read_bytes() == before


def test_a_folder_that_does_not_match_its_digests_is_refused(class_run, tmp_path):
    folder = shutil.copytree(class_run, tmp_path / "run")
    (folder / "recipe.yaml").write_text("dataset: scenes\n")
    with pytest.raises(ValueError, match=f"is damaged: recipe.yaml does not match {SUMS}; .* or delete its {SUMS}"):
        write_card(folder)


def test_a_card_of_the_user_is_kept(copy, caplog):
    own = text_of(copy).replace(OUR_CARD, "") + "\nMy own words.\n"
    (copy / "README.md").write_text(own)
    write_card(copy)
    assert text_of(copy) == own and "was written by hand and is kept" in caplog.text
