"""Fetch, stream and cache tars and tables of a tiny Hub on loopback.

`huggingface_hub` reads its endpoint when it is imported, so each question is asked in a process of its own.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import datasets
import pytest

from tests.loopback_hub import LoopbackHub

pytestmark = pytest.mark.slow  # a subprocess for each question

ASK = """
import json, sys
from modeling_clipscratch.data.columns import DataOptions
from modeling_clipscratch.data.dataset import ImageReader, class_names, prepare_dataset
from modeling_clipscratch.data.sources.hub import hub_source
from modeling_clipscratch.data.sources.streams import shard_names, shard_rows
def ask(name, config, split, streaming):
    options = DataOptions(dataset_config=config)
    try:
        source = hub_source(name, options)
        answer = {"splits": list(source), "origin": source[split].origin, "templates": source[split].templates}
        if streaming:
            stream = source[split].stream()
            rows = [row for shard in range(stream.num_shards) for row, _ in shard_rows(stream, shard)]
            label = stream.features["label"]
            return answer | {
                "files": shard_names(stream),
                "class_names": label.names,
                "labels": [row["label"] for row in rows],
                "keys": [row.get("key") for row in rows],
                "sizes": [len((row.get("image") or row["img"])["bytes"]) for row in rows],
            }
        dataset = prepare_dataset(source[split].open(), options, name=name, split=split)
        color = ImageReader(dataset)(0).getpixel((0, 0))
        return answer | {"count": len(dataset), "color": color, "class_names": class_names(dataset)}
    except ValueError as error:
        return {"error": str(error)}
print("ANSWER", json.dumps([ask(*question) for question in json.loads(sys.argv[1])]))
"""

NAMES = ["tars", "words", "table", "configs", "configs en", "configs fr", "rows", "nothing", "gated"]
STREAMED = ["tars", "words", "table", "nothing", "gated"]


def ask(home: Path, hub: LoopbackHub, names: list[str], streaming: bool = False) -> dict:
    """What a fresh process answers of the datasets, with its cache in `home`."""
    environment = os.environ | hub.environment(home) | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    split = {name: "train" if streaming and name != "words" else "test" for name in names}
    questions = [[f"owner/{name.split()[0]}", (name.split() + [None])[1], split[name], streaming] for name in names]
    command = [sys.executable, "-c", ASK, json.dumps(questions)]
    process = subprocess.run(command, env=environment, capture_output=True, text=True)
    line = next((line for line in process.stdout.splitlines() if line.startswith("ANSWER ")), None)
    assert line, process.stderr
    return dict(zip(names, json.loads(line.removeprefix("ANSWER ")), strict=True))


@pytest.fixture(scope="module")
def answers(tmp_path_factory, write_class_set, encode):
    """What is answered while the Hub is there, which files were fetched and kept, and what is answered without it."""
    root = tmp_path_factory.mktemp("hub")
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=["red", "blue"])})

    def write_table(path, **columns):
        path.parent.mkdir(parents=True, exist_ok=True)
        columns = {"img": [{"bytes": encode("blue"), "path": None}] * 2, "label": [1, 0]} | columns
        own = {name: datasets.Value("string") for name in columns if name not in features}
        table = datasets.Dataset.from_dict(columns, features=datasets.Features({**features, **own}))
        table.to_parquet(str(path))

    write_class_set(root / "tars")
    write_class_set(root / "words", splits=("train",))
    for shard in range(2):
        (root / "words" / "train" / f"{shard}.tar").rename(root / "words" / f"{('val', 'test')[shard]}-0.tar")
    (root / "words" / "train" / "nshards.txt").unlink()
    for split in ("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001"):
        write_table(root / "table" / "data" / f"{split}.parquet")
    for config in ("en", "de"):
        write_table(root / "configs" / config / "test.parquet")
    files = "".join(
        f"- config_name: {config}\n  data_files:\n  - split: test\n    path: {config}/*\n" for config in ("en", "de")
    )
    (root / "configs" / "README.md").write_text(f"---\nconfigs:\n{files}---\n")
    write_table(root / "rows" / "rows.parquet", split=["train", "test"])
    homes = [tmp_path_factory.mktemp("home") for _ in range(2)]
    with LoopbackHub() as hub:
        hub.add("owner/gated", root / "tars", kind="dataset", gated=True)
        names = [path.name for path in root.iterdir()]
        commits = {name: hub.add(f"owner/{name}", root / name, kind="dataset").sha("main") for name in names}
        online, seen = ask(homes[0], hub, NAMES), list(hub.seen)
        streamed = ask(homes[1], hub, STREAMED, streaming=True)
    kept = [str(path) for path in homes[1].rglob("*") if path.is_file()]
    offline = ask(homes[0], hub, NAMES)
    return {"online": online, "seen": seen, "streamed": streamed, "kept": kept, "offline": offline, "commits": commits}


def test_tars_are_read_and_only_the_split_that_is_opened_is_fetched(answers):
    answer = answers["online"]["tars"]
    assert (answer.get("count"), answer["color"]) == (4, [255, 0, 0]), answer
    assert answer["templates"] == ["a {} thing.", "all {}."] and answer["class_names"] == ["red", "deep blue"]
    assert answer["origin"] == f"owner/tars at revision {answers['commits']['tars']}"
    answer = answers["online"]["words"]  # splits are words in the names of tars
    assert (answer.get("splits"), answer.get("count")) == (["validation", "test"], 2), answer
    fetched = [path for path in answers["seen"] if "resolve" in path and path.endswith(".tar")]
    assert any("tars/resolve" in path and "/test/0.tar" in path for path in fetched)
    assert not any("/train/" in path or "val-0" in path for path in fetched)


def test_tables_are_read_by_configuration_and_split_column(answers):
    answer = answers["online"]["table"]
    assert (answer.get("count"), answer["color"], answer["class_names"]) == (2, [0, 0, 255], ["red", "blue"]), answer
    answer = answers["online"]["configs en"]
    assert answer.get("count") == 2 and "en" in answer["origin"], answer
    answer = answers["online"]["rows"]
    assert (sorted(answer.get("splits", [])), answer.get("count")) == (["test", "train"], 1), answer


@pytest.mark.parametrize("name", ["tars", "words", "table", "configs en"])
def test_what_was_fetched_is_read_again_without_the_hub(answers, name):
    before, after = answers["online"][name], answers["offline"][name]
    assert after.get("count") == before["count"], after
    assert (after["color"], after["class_names"]) == (before["color"], before["class_names"])


@pytest.mark.parametrize(
    ("way", "name", "parts"),
    [
        ("online", "configs", ["the available configs: ['en', 'de']", "--dataset_config"]),
        ("online", "configs fr", ["'fr' not found. Available: ['en', 'de']", "--dataset_config"]),
        ("online", "nothing", ["is not a local folder, and the Hub (http://127.0.0.1", "Check the spelling"]),
        ("streamed", "nothing", ["is not a local folder, and the Hub (http://127.0.0.1", "Check the spelling"]),
        ("online", "gated", ["restricted", "`hf auth login` for a private or gated dataset"]),
        ("streamed", "gated", ["restricted", "`hf auth login` for a private or gated dataset"]),
        ("offline", "nothing", ["the Hub (http://127.0.0.1", "cannot be reached", "set HF_HOME to where it is kept"]),
    ],
)
def test_dataset_that_cannot_be_read_is_named_with_the_remedy(answers, way, name, parts):
    message = answers[way][name]["error"]
    assert message.startswith(f"owner/{name.split()[0]}: ") and "\n" not in message
    assert all(part in message for part in parts), message


def test_tars_and_tables_are_streamed_with_their_class_names_and_kept_nowhere(answers):
    answer, commit = answers["streamed"]["tars"], answers["commits"]["tars"]
    assert answer.get("class_names") == ["red", "deep blue"], answer
    assert answer["files"] == [f"hf://datasets/owner/tars@{commit}/train/{shard}.tar" for shard in (0, 1)]
    assert answer["labels"] == [0, 1, 0, 1] and answer["keys"] == [f"{n // 2}/s{n:07d}" for n in range(4)]
    assert answers["streamed"]["words"].get("keys") == ["test-0/s0000002", "test-0/s0000003"]
    answer = answers["streamed"]["table"]
    assert answer.get("class_names") == ["red", "blue"], answer
    assert [file.rpartition("/")[2] for file in answer["files"]] == [f"train-0000{n}-of-00002.parquet" for n in (0, 1)]
    assert answer["labels"] == [1, 0, 1, 0] and min(answer["sizes"]) > 0
    assert any("classnames.txt" in path for path in answers["kept"])
    assert not [path for path in answers["kept"] if path.endswith((".tar", ".parquet"))]
