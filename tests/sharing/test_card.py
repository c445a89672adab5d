"""Write cards of tiny runs, whole and with parts missing, and run them word for word."""

import html
import json
import logging
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
from transformers import AutoModel

from modeling_clipscratch.cli import eval as run_eval
from modeling_clipscratch.cli import train as run_train
from modeling_clipscratch.evaluation.report.metric_tables import weights_sha256
from modeling_clipscratch.sharing.card import model_card as module
from modeling_clipscratch.sharing.card.card_facts import _command
from modeling_clipscratch.sharing.card.model_card import write_card
from modeling_clipscratch.training.saving.run_folder import OUR_CARD
from modeling_clipscratch.utils.checksums import SUMS, write_sums

TINY = {
    "text_tower": "distilbert", "text_hidden_size": 16, "text_num_layers": 1, "text_num_heads": 2,
    "vision_tower": "vit", "vision_hidden_size": 16, "vision_num_layers": 1, "vision_num_heads": 2,
    "image_size": 8, "patch_size": 4, "projection_dim": 16, "max_steps": 2, "disable_tqdm": True, "precision": "fp32",
}  # fmt: skip
# Each snippet with names of its own, in a process to which this package is not installed.
ALONE = """
import sys
sys.modules["modeling_clipscratch"] = None
for snippet in sys.argv[1:]:
    print("----")
    exec(snippet, {})
"""
COLOURS = {"red": (220, 30, 30), "green": (30, 200, 60), "blue": (40, 60, 230)}


def train(folder, **changes):
    recipe = folder.parent / f"{folder.name}.yaml"
    recipe.parent.mkdir(parents=True, exist_ok=True)
    recipe.write_text(yaml.safe_dump({**TINY, "cache_dir": str(folder.parent / "cache"), **changes}))
    run_train.main([str(recipe), "--output_dir", str(folder)])
    return folder


@pytest.fixture(scope="module")
def class_run(tmp_path_factory):
    """Of digits, with the run's card."""
    return train(tmp_path_factory.mktemp("runs") / "tiny-digits", dataset="digits", freeze_text=False)


@pytest.fixture(scope="module")
def caption_run(tmp_path_factory):
    """Of a folder of pictures with captions, given by its path; measured on validation."""
    base = tmp_path_factory.mktemp("secret")
    pictures = base / "photos"
    pictures.mkdir()
    lines = ["file_name,caption"]
    for number in range(60):
        name, colour = list(COLOURS.items())[number % 3]
        Image.fromarray(np.full((12, 12, 3), colour, np.uint8)).save(pictures / f"{number}.png")
        lines.append(f"{number}.png,something {name} number {number}")
    (pictures / "metadata.csv").write_text("\n".join(lines))
    settings = {"test_split": "none", "global_batch_size": 16, "loss": "sigmoid"}
    return train(base / "tiny-captions", dataset=str(pictures), **settings)


@pytest.fixture
def copy(class_run, tmp_path):
    """The class run's folder, to change."""
    ignored = shutil.ignore_patterns("checkpoint-*", SUMS)  # without digests its files may be changed
    return Path(shutil.copytree(class_run, tmp_path / "tiny-digits", ignore=ignored))


def text_of(folder):
    return (folder / "README.md").read_text()


def snippets(text):
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def change(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


# The snippets


@pytest.mark.parametrize("run, first", [("class_run", "the digit"), ("caption_run", "a boat with a white sail")])
def test_snippets_run_word_for_word_where_the_package_cannot_be_imported(request, run, first, tmp_path):
    folder = request.getfixturevalue(run)
    found = snippets(text_of(folder))
    assert len(found) == 3
    places = {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-I", "-c", ALONE, *found],
        cwd=folder.parent,
        env={**os.environ, **places},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "custom code" not in done.stdout + done.stderr  # nobody is asked anything
    assert "of type" not in done.stderr  # transformers' warning of a model type that it does not know
    ranked, piped, nearest = done.stdout.split("----\n")[1:]
    assert first in ranked and ranked.count("%") >= 3 and piped.count("%") == 3
    assert re.fullmatch(
        rf"the picture nearest to '.*{first}.*' is number [012], with a cosine of -?[01]\.\d\d\n", nearest
    )


def test_snippets_name_the_repository_where_there_is_one(copy):
    write_card(copy, repo_id="ann/my-clip")
    text = text_of(copy)
    assert text.count('"ann/my-clip"') == 5 and "# my-clip\n" in text
    assert "beside the folder" not in text and "beside the folder" in write_card(copy).read_text()
    assert "--model ann/my-clip" not in text_of(copy) and "--model ann/my-clip" in text


@pytest.mark.parametrize(
    ("template", "label"),
    [("a {} or a {}.", r"a (\w+) or a \1\."), ("{size} of {}", r"\{size\} of \w+"), ("100 % {}", r"\w+")],
)
def test_pipeline_snippet_takes_any_template(copy, template, label, monkeypatch, capsys):
    run = json.loads((copy / "run.json").read_text())
    change(copy / "run.json", dataset={**run["dataset"], "templates": [template]})
    monkeypatch.chdir(copy.parent)
    exec(snippets(write_card(copy).read_text())[1], {})
    assert len(re.findall(rf"%  {label}$", capsys.readouterr().out, re.MULTILINE)) == 3


# The metadata


def test_metadata_are_what_huggingface_hub_reads_and_writes(class_run):
    data = metadata_load(class_run / "README.md")
    card = ModelCard.load(class_run / "README.md")
    assert isinstance(card.data, ModelCardData) and card.data.to_dict() == data
    assert eval_results_to_model_index("tiny-digits", card.data.eval_results) == data["model-index"]
    assert data["library_name"] == "transformers" and data["pipeline_tag"] == "zero-shot-image-classification"
    assert not {"language", "license", "datasets", "base_model"} & set(data)
    (result,) = data["model-index"][0]["results"]
    assert result["dataset"] == {"name": "digits", "type": "digits", "split": "test"}
    measured = json.loads((class_run / "metrics.json").read_text())["digits"]
    top1 = result["metrics"][0]
    assert top1["type"] == "accuracy" and top1["value"] == measured["top1"]
    assert top1["args"] == {"ci95": measured["top1_ci95"]}


def check_like_the_hub(data):
    """The rules of the Hub's `validate-yaml`, as far as its answers and huggingface_hub's sources tell them."""
    repo = re.compile(r"^(?:[\w-]+/)?[\w.-]+$", re.ASCII)
    words = ("library_name", "pipeline_tag", "license", "base_model_relation")
    assert all(isinstance(data[name], str) for name in words if name in data)
    assert re.fullmatch(r"[a-z]{2,3}", data.get("language", "en"))
    assert data.get("base_model_relation", "finetune") in ("adapter", "merge", "quantized", "finetune")
    for name in ("tags", "datasets", "metrics", "base_model"):
        values = data.get(name, [])
        assert isinstance(values, list) and len(set(values)) == len(values) and all(isinstance(v, str) for v in values)
    assert all(repo.fullmatch(name) for name in [*data.get("datasets", []), *data.get("base_model", [])])
    for model in data.get("model-index", []):
        assert isinstance(model["name"], str) and model["name"]
        for result in model["results"]:
            assert isinstance(result["task"]["type"], str)
            assert isinstance(result["dataset"]["name"], str) and repo.fullmatch(result["dataset"]["type"])
            assert result["metrics"]
            for metric in result["metrics"]:
                assert isinstance(metric["type"], str) and isinstance(metric["value"], (int, float))


@pytest.mark.parametrize("run", ["class_run", "caption_run"])
def test_metadata_keep_the_hub_s_rules(request, run):
    check_like_the_hub(metadata_load(request.getfixturevalue(run) / "README.md"))


def test_towers_and_data_of_the_hub_are_named_and_linked(copy):
    towers = {"text": {"name": "distilbert/distilbert-base-uncased", "source": "hub"},
              "vision": {"name": "vit-tiny", "source": "local"}}  # fmt: skip
    data = json.loads((copy / "run.json").read_text())["dataset"]
    told = {**data, "name": "clip-benchmark/wds_digits", "source": "hub", "revision": "abc"}
    change(copy / "run.json", towers=towers, dataset=told)
    write_card(copy, repo_id="ann/clip", license="apache-2.0", language="de")
    data, text = metadata_load(copy / "README.md"), text_of(copy)
    check_like_the_hub(data)
    assert data["base_model"] == ["distilbert/distilbert-base-uncased"] and data["base_model_relation"] == "finetune"
    assert data["datasets"] == ["clip-benchmark/wds_digits"] and data["license"] == "apache-2.0"
    assert data["language"] == "de"
    assert data["model-index"][0]["results"][0]["dataset"]["type"] == "clip-benchmark/wds_digits"
    assert "[distilbert/distilbert-base-uncased](https://huggingface.co/distilbert/distilbert-base-uncased)" in text
    assert "weights called `vit-tiny`" in text and "keep the licence they came with" in text
    assert "(https://huggingface.co/datasets/clip-benchmark/wds_digits), revision `abc`" in text


# The text


def test_card_tells_what_the_run_knew(class_run):
    text = text_of(class_run)
    assert text.index("---\n") == 0 and OUR_CARD in text
    for told in (
        "| text tower | distilbert, 1 layer of width 16, from scratch; ",
        "to 16 dimensions; 513 parameters, all trained",  # two heads of 16 x 16 and the temperature
        "1,257 train, 180 validation, 360 test pictures",
        "10 classes: zero, one, two,",
        "- `the digit {}.`",
        "**digits**, split test, 360 pictures, zero-shot:",
        "clipscratch eval --model tiny-digits --dataset digits\n",
        "512 pictures seen in 2 steps; ",
        "![Loss, learning rate and validation over the run](curves.png)",
        "learned from 1,257 pictures",
        "It sees 8x8 pixels",
    ):
        assert told in text, told
    seconds = json.loads((class_run / "run.json").read_text())["seconds"]
    assert 0 < seconds < 600 and f"; {seconds:.0f} s of training" in text
    metrics = json.loads((class_run / "metrics.json").read_text())["digits"]
    value, low, high = (f"{100 * share:.1f}" for share in (metrics["top1"], *metrics["top1_ci95"]))
    assert f"| top1 | {value} % ({low} to {high}) |" in text
    recipe = yaml.safe_load(re.search(r"```yaml\n(.*?)```", text, re.DOTALL).group(1))
    assert recipe == yaml.safe_load((class_run / "recipe.yaml").read_text())


def test_files_are_listed_with_size_and_digest(class_run):
    rows = dict(re.findall(r"^\| (\S+) \| ([\d,]+ \| `\w{64}`) \|$", text_of(class_run), re.MULTILINE))
    there = {path.name for path in class_run.iterdir() if path.is_file()}
    assert set(rows) == there - {"README.md", SUMS} and "model.safetensors" in rows
    expected = subprocess.run(["sha256sum", class_run / "model.safetensors"], capture_output=True, text=True).stdout
    size = (class_run / "model.safetensors").stat().st_size
    assert rows["model.safetensors"] == f"{size:,} | `{expected.split()[0]}`"


def test_no_place_on_this_machine_gets_into_the_card(caption_run):
    text = text_of(caption_run)
    assert "secret" not in text and str(caption_run.parent) not in text and "/tmp" not in text
    assert "on `photos`" in text and "`photos` in a command stands for" in text
    assert "dataset: photos\n" in text
    assert "secret" not in (caption_run / "run.json").read_text()


def test_name_of_local_data_is_made_what_the_hub_allows(copy):
    data = json.loads((copy / "run.json").read_text())["dataset"]
    for name, plain in (("bücher & co", "b-cher-co"), ("照片", "data")):
        change(copy / "run.json", dataset={**data, "name": name, "source": "local"})
        write_card(copy)
        read = metadata_load(copy / "README.md")
        check_like_the_hub(read)
        assert read["model-index"][0]["results"][0]["dataset"]["type"] == plain
        assert f"`{name}`" in text_of(copy)


def test_card_of_captions_speaks_of_captions(caption_run):
    text = text_of(caption_run)
    assert "54 train, 6 validation pictures, 54 captions to train" in text
    assert "split validation, 6 pictures, retrieval:" in text and "--split validation" in text
    assert "pairwise sigmoid" in text and "classes:" not in text and "prompt" not in text
    assert re.search(r"image to text recall@1 \| [\d.]+ % \([\d.]+ to [\d.]+\)", text)


def headings_of_empty_sections(text):
    lines = [line for line in text.split("---", 2)[2].splitlines() if line.strip()]
    followed = zip(lines, [*lines[1:], "## end"], strict=True)
    return [a for a, b in followed if a.startswith("## ") and b.startswith("#")]


def test_command_of_the_card_has_the_options_of_data_that_the_recipe_has_and_no_place():
    recipe = {"dataset_config": "en", "split_column": "none", "class_names": ["a", "b c"], "on_bad_row": "skip"}
    command = _command("birds", "validation", {**recipe, "cache_dir": "cache", "learning_rate": 0.1, "templates": None})
    words = "--split validation --class_names a 'b c' --split_column none --on_bad_row skip --dataset_config en"
    assert command == f"clipscratch eval --model MODEL --dataset birds {words}"


@pytest.mark.parametrize(
    "missing",
    [
        ("run.json",), ("metrics.json",), ("recipe.yaml", "run.json"), ("versions.json",), ("curves.png",),
        ("run.json", "metrics.json", "recipe.yaml", "versions.json", "curves.png", "trainer_state.json"),
    ],
    ids=lambda names: "-".join(names),
)  # fmt: skip
def test_card_reads_well_where_facts_are_missing(copy, missing):
    for name in missing:
        (copy / name).unlink()
    text = write_card(copy).read_text()
    check_like_the_hub(metadata_load(copy / "README.md"))
    assert headings_of_empty_sections(text) == []
    assert "None" not in text and "\n\n\n" not in text and ".." not in text.replace("...", "")
    assert ("## Results" in text) == ("metrics.json" not in missing)
    assert "curves.png" not in text or "curves.png" not in missing
    assert len(snippets(text)) == 3


def test_metrics_of_nothing_are_no_section(copy):
    (copy / "metrics.json").write_text('{"digits": {}}')
    assert "## Results" not in write_card(copy).read_text()
    assert "model-index" not in metadata_load(copy / "README.md")


def test_report_of_these_weights_is_told_and_of_others_is_not(copy, caplog):
    run_eval.main([f"--model={copy}", "--dataset", "digits", "--split", "validation", f"--output_dir={copy}/report"])
    text = write_card(copy).read_text()
    assert "**digits**, split test, 360 pictures" in text and "**digits**, split validation, 180 pictures" in text
    assert "run_eval.py --model tiny-digits --dataset digits --split validation --output_dir report\n" in text
    assert str(copy.parent) not in text
    change(copy / "report" / "evaluation.json", weights_sha256="0" * 64)
    with caplog.at_level(logging.INFO, module.__package__):
        assert "split validation" not in write_card(copy).read_text()
    assert "made of other weights; the card leaves it out" in caplog.text


def test_sets_of_one_name_are_told_apart(copy, tmp_path):
    for name in ("birds", "cats"):
        for label in ("one", "two"):
            (tmp_path / name / "pictures" / "test" / label).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(tmp_path / name / "pictures" / "test" / label / "1.png")
    sets = [str(tmp_path / name / "pictures") for name in ("birds", "cats")]
    run_eval.main([f"--model={copy}", "--dataset", *sets, f"--output_dir={copy}/report"])
    text = write_card(copy).read_text()
    assert "**birds/pictures**, split test" in text and "**cats/pictures**, split test" in text
    assert str(tmp_path) not in text


def test_report_of_weights_in_shards_is_told_until_any_shard_is_another(copy):
    model = AutoModel.from_pretrained(copy)
    (copy / "model.safetensors").unlink()
    model.save_pretrained(copy, max_shard_size="10KB")
    first, *others = sorted(copy.glob("model-*.safetensors"))
    run_eval.main([f"--model={copy}", "--dataset", "digits", "--split", "validation", f"--output_dir={copy}/report"])
    assert others and "split validation" in write_card(copy).read_text()
    shutil.copy(first, others[-1])
    assert "split validation" not in write_card(copy).read_text()


def test_report_that_was_stopped_half_way_leaves_the_earlier_one_to_the_card(copy, monkeypatch):
    report = ["--split", "validation", f"--output_dir={copy}/report"]
    run_eval.main([f"--model={copy}", "--dataset", "digits", *report])
    before = write_card(copy).read_text()
    monkeypatch.setattr("modeling_clipscratch.evaluation.report.write_report.draw_pictures", lambda *given: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run_eval.main([f"--model={copy}", "--dataset", "scenes", *report])
    assert "split validation" in before and write_card(copy).read_text() == before
    (copy / "report" / "metrics.json").write_text('{"scenes": {"text_to_image_recall@1": 0.5}}')
    assert "split validation" not in write_card(copy).read_text()


EVIL = [
    "<script>alert(1)</script>",
    "a|b",
    "[x](javascript:y)",
    "`c` *d*",
    "two\nlines\n---\n# head",
    "```",
    "_e_ $f$ &lt;",
]


def test_names_of_others_mean_nothing_in_the_card(copy):
    markdown_it = pytest.importorskip("markdown_it", reason="markdown-it-py is not installed")
    for name in EVIL:
        run = json.loads((copy / "run.json").read_text())
        data = {
            **run["dataset"],
            "name": name,
            "source": "local",
            "class_names": [*EVIL, "z"],
            "templates": [f"{name} {{}}"],
        }
        towers = {"text": {"name": name, "source": "local"}, "vision": {"name": name, "source": "hub"}}
        change(copy / "run.json", dataset=data, towers=towers)
        change(copy / "versions.json", torch=name)
        (copy / "recipe.yaml").write_text(
            yaml.safe_dump({"dataset": name, "text_tower": " ".join(["x" * 90, "```", "y" * 90])})
        )
        text = write_card(copy, repo_id="ann/clip").read_text()
        assert metadata_load(copy / "README.md")["model-index"][0]["results"][0]["dataset"]["name"] == name
        front, body = text.split("\n---\n", 1)
        page = markdown_it.MarkdownIt("commonmark", {"html": True}).enable("table").render(body)
        assert "<script" not in page and 'href="javascript' not in page and "<em>" not in page
        shown = html.unescape(re.sub("<[^>]+>", "", page))
        one_line = " ".join(name.split())
        assert f"weights called {one_line};" in shown and f"{one_line} {{}}" in shown
        assert ", ".join(" ".join(evil.split()) for evil in EVIL) + ", z." in shown
        assert page.count("<table>") == 3 and page.count("<h1>") == 1 and page.count("<pre>") == 5


DAMAGED = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "processor_config.json"]
DAMAGED += ["run.json", "metrics.json", "versions.json", "recipe.yaml", "report/metrics.json", "report/evaluation.json"]
WRONG = '{"towers": "x", "data": {"a": 1}, "model": "x", "image_processor": 1, "model_max_length": "x", "digits": 1}'
TEXTS = ["", '{"a": ', "[]", "null", '"x"', b"\x80\xff" * 50, WRONG]


@pytest.mark.parametrize("content", TEXTS, ids=["empty", "cut", "list", "null", "text", "bytes", "types"])
@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_named_and_the_card_stays(copy, name, content):
    content = "a word" if (name, content) == ("recipe.yaml", WRONG) else content  # a recipe may hold any key
    if name.startswith("report"):
        (copy / "report").mkdir()
        digest = weights_sha256(copy)
        (copy / "report" / "evaluation.json").write_text(json.dumps({"weights_sha256": digest, "data": {}}))
    before = (copy / "README.md").read_bytes()
    (copy / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=f"{name} (is damaged|holds a value)|holds no ClipScratch model") as error:
        write_card(copy)
    assert "\n" not in str(error.value) and (copy / "README.md").read_bytes() == before


def test_card_of_somebody_s_own_is_kept(copy, caplog):
    own = text_of(copy).replace(OUR_CARD, "") + "\nMy own words.\n"
    (copy / "README.md").write_text(own)
    write_card(copy)
    assert text_of(copy) == own and "was written by hand and stays as it is" in caplog.text
    assert (
        "My own words"
        not in write_card(shutil.copytree(copy, copy / "new", ignore=lambda *_: ["README.md"])).read_text()
    )


def test_overwritten_run_takes_its_card_with_it_but_not_somebody_s_own(copy):
    again = [str(copy.parent / "again.yaml"), "--output_dir", str(copy), "--overwrite_output_dir"]
    Path(again[0]).write_text(yaml.safe_dump({**TINY, "dataset": "digits", "freeze_text": False, "max_steps": 1}))
    run_train.main(again)
    assert "pictures seen in 1 steps" in text_of(copy)
    (copy / "README.md").write_text("mine")
    run_train.main(again)
    assert text_of(copy) == "mine"


def test_folder_without_a_model_is_refused_in_one_sentence(tmp_path):
    with pytest.raises(ValueError, match="holds no ClipScratch model"):
        write_card(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_resumed_run_tells_all_its_seconds(tmp_path):
    settings = {"dataset": "digits", "freeze_text": False, "eval_strategy": "no", "logging_steps": 1}
    settings |= {"save_strategy": "steps", "save_steps": 1}
    folder = train(tmp_path / "run", **settings)
    checkpoint = folder / "checkpoint-1"
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    state["log_history"][-1]["seconds"] = 5000.0
    (checkpoint / "trainer_state.json").write_text(json.dumps(state))
    write_sums(checkpoint)
    again = train(tmp_path / "again", **settings, resume_from_checkpoint=str(checkpoint))
    told = json.loads((again / "run.json").read_text())
    assert 5000 <= told["seconds"] < 5600 and told["steps"] == 2 and told["pictures_seen"] == 512
    assert f"{told['seconds'] / 60:.1f} min of training" in text_of(again)
