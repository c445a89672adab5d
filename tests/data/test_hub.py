"""A tiny Hub on loopback goes in; tar sets and tables that are fetched, streamed, cached and refused are checked.

`huggingface_hub` reads its endpoint when it is imported, so the questions are asked in processes of their own.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import datasets
import pytest

from tests.loopback_hub import LoopbackHub

ASK = """
import json, sys
from modeling_clipscratch.data import load_rows
def ask(dataset):
    try:
        rows = load_rows(dataset, "test")
    except ValueError as error:
        return {"error": str(error)}
    said = {"count": len(rows), "colour": rows.read_image(0).getpixel((0, 0)), "captions": rows[0]["captions"]}
    return said | {"origin": rows.origin, "fingerprint": rows.fingerprint, "class_names": rows.class_names}
print("SAID", json.dumps({dataset: ask(dataset) for dataset in sys.argv[1:]}))
"""

STREAM = """
import json, sys
from modeling_clipscratch.data.columns import Columns
from modeling_clipscratch.data.stream import open_stream
def ask(dataset):
    try:
        source, readers = open_stream(dataset, Columns())
    except ValueError as error:
        return {"error": str(error)}
    shards = range(len(source.shards.files))
    rows = [source.row(raw, shard, row) for shard in shards for row, raw in source.shards.rows(shard)]
    said = {"files": source.shards.files, "class_names": source.class_names, "labels": [row.label for row in rows]}
    said |= {"keys": [row.key for row in rows], "sizes": [len(row.picture) for row in rows]}
    return said | {"splits": list(readers), "test": len(readers["test"]())}
print("SAID", json.dumps({dataset: ask(dataset) for dataset in sys.argv[1:]}))
"""


def ask(home: Path, hub: LoopbackHub, program: str = ASK) -> dict:
    """What a fresh process says of the sets, with its cache in `home`."""
    environment = os.environ | hub.environment(home) | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    command = [sys.executable, "-c", program, "owner/tars", "owner/table", "owner/nothing", "owner/gated"]
    process = subprocess.run(command, env=environment, capture_output=True, text=True)
    line = next((line for line in process.stdout.splitlines() if line.startswith("SAID ")), None)
    assert line, process.stderr
    return json.loads(line.removeprefix("SAID "))


def add_sets(hub, root: Path) -> dict[str, str]:
    """Puts every set under `root` on the Hub. Returns their commits."""
    names = [f"owner/{path.name}" for path in (root / "owner").iterdir()]
    hub.add("owner/gated", root / "owner" / "tars", kind="dataset", gated=True)
    return {name: hub.add(name, root / name, kind="dataset").sha("main") for name in names}


@pytest.fixture(scope="module")
def answers(tmp_path_factory, write_class_set, encode):
    """What is said while the Hub is there, which files were fetched, and what is said when it is gone."""
    root = tmp_path_factory.mktemp("hub")
    write_class_set(root / "owner" / "tars")
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=["red", "blue"])})
    columns = {"img": [{"bytes": encode("blue"), "path": None}], "label": [1]}
    (root / "owner" / "table" / "data").mkdir(parents=True)
    table = datasets.Dataset.from_dict(columns, features=features)
    table.to_parquet(str(root / "owner" / "table" / "data" / "test-00000-of-00001.parquet"))
    home = tmp_path_factory.mktemp("home")
    with LoopbackHub() as hub:
        commits = add_sets(hub, root)
        online = ask(home, hub)
    return {"online": online, "seen": hub.seen, "offline": ask(home, hub), "commits": commits}


def test_tar_set_is_read(answers):
    said = answers["online"]["owner/tars"]
    assert (said.get("count"), said["colour"]) == (4, [255, 0, 0]), said
    assert said["captions"] == ["a red thing.", "all red."]
    assert said["origin"] == f"owner/tars at revision {answers['commits']['owner/tars']}"


def test_only_the_split_that_is_asked_for_is_fetched(answers):
    fetched = [path for path in answers["seen"] if "resolve" in path and "owner/tars" in path]
    assert any("/test/0.tar" in path for path in fetched)
    assert not any("/train/" in path for path in fetched)


def test_table_is_read(answers):
    said = answers["online"]["owner/table"]
    assert (said.get("count"), said["colour"], said["class_names"]) == (1, [0, 0, 255], ["red", "blue"]), said


@pytest.mark.parametrize("dataset", ["owner/tars", "owner/table"])
def test_what_was_fetched_is_read_again_without_the_hub(answers, dataset):
    before, after = answers["online"][dataset], answers["offline"][dataset]
    assert after.get("count") == before["count"], after
    assert (after["colour"], after["captions"]) == (before["colour"], before["captions"])


def test_fingerprint_of_a_tar_set_does_not_depend_on_the_hub_being_there(answers):
    assert answers["online"]["owner/tars"]["fingerprint"] == answers["offline"]["owner/tars"]["fingerprint"]


def test_unknown_set_is_said_to_be_unknown(answers):
    sentence = answers["online"]["owner/nothing"]["error"]
    assert sentence.startswith("owner/nothing: there is no such local folder, and the Hub (http://127.0.0.1")
    assert "check the spelling" in sentence


def test_gated_set_says_that_it_asks_for_an_agreement(answers, streamed):
    for said in (answers["online"], streamed["said"]):
        assert said["owner/gated"]["error"].startswith("owner/gated: the Hub asks for an agreement first; accept it")


def test_hub_out_of_reach_is_said_with_the_remedy(answers):
    sentence = answers["offline"]["owner/nothing"]["error"]
    assert "owner/nothing: there is no such local folder, the Hub (http://127.0.0.1" in sentence
    assert "cannot be reached" in sentence and "set HF_HOME to where it is kept" in sentence


@pytest.fixture(scope="module")
def streamed(tmp_path_factory, write_class_set, encode):
    """What is said of streams, and which files were asked for."""
    root = tmp_path_factory.mktemp("hub")
    write_class_set(root / "owner" / "tars")
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=["red", "blue"])})
    (root / "owner" / "table" / "data").mkdir(parents=True)
    for split in ("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001"):
        columns = {"img": [{"bytes": encode("blue"), "path": None}] * 2, "label": [1, 0]}
        table = datasets.Dataset.from_dict(columns, features=features)
        table.to_parquet(str(root / "owner" / "table" / "data" / f"{split}.parquet"))
    home = tmp_path_factory.mktemp("home")
    with LoopbackHub() as hub:
        commits = add_sets(hub, root)
        said = ask(home, hub, STREAM)
    kept = [path for path in home.rglob("*") if path.is_file()]
    return {"said": said, "seen": hub.seen, "kept": kept, "commits": commits}


def test_tars_are_streamed_by_hub_id_with_their_class_names(streamed):
    said, commit = streamed["said"]["owner/tars"], streamed["commits"]["owner/tars"]
    assert said.get("class_names") == ["red", "deep blue"], said
    assert said["files"] == [f"hf://datasets/owner/tars@{commit}/train/{shard}.tar" for shard in (0, 1)]
    assert said["labels"] == [0, 1, 0, 1] and said["keys"] == [f"{n // 2}/s{n:07d}" for n in range(4)]
    assert said["splits"] == ["test"] and said["test"] == 4


def test_parquet_is_streamed_by_hub_id_with_its_class_names(streamed):
    said = streamed["said"]["owner/table"]
    assert said.get("class_names") == ["red", "blue"], said
    assert [file.rpartition("/")[2] for file in said["files"]] == [f"train-0000{n}-of-00002.parquet" for n in (0, 1)]
    assert said["labels"] == [1, 0, 1, 0]
    assert said["splits"] == ["test"] and said["test"] == 2


def test_no_train_shard_of_a_stream_is_kept_on_disk(streamed):
    assert any("/train/0.tar" in path for path in streamed["seen"])
    kept = [str(path) for path in streamed["kept"]]
    assert any("classnames.txt" in path for path in kept)
    assert not [path for path in kept if "/train/" in path and path.endswith(".tar")]


def test_unknown_set_is_said_to_be_unknown_also_as_a_stream(streamed):
    assert streamed["said"]["owner/nothing"]["error"].startswith(
        "owner/nothing: there is no such local folder, and the"
    )
