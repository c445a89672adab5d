"""Check a trained folder, and collect what it says about itself for its card."""

import logging
import math
import shlex
from pathlib import Path, PureWindowsPath

import yaml
from safetensors import safe_open
from transformers.dynamic_module_utils import get_relative_import_files

from ...data.columns import DATA_OPTIONS
from ...evaluation.damaged_files import naming_damaged_files
from ...evaluation.remote_code import check_code
from ...evaluation.report.metric_tables import ACCOUNT, weights_sha256
from ...hub.configuration_clipscratch import ClipScratchConfig
from ...hub.errors_clipscratch import ClipScratchError
from ...utils.checksums import SUMS, find_damage
from ...utils.local_files import read_json
from ...utils.model_files import CODE

logger = logging.getLogger(__name__)

REPORT = "report"  # folder with the report of a model, in its folder and repository
_NEEDED = {
    "the weights": ("model.safetensors", "model.safetensors.index.json"),
    "the model's code": (f"modeling{CODE}",),
    "the tokenizer": ("tokenizer_config.json",),
    "the image processor": ("processor_config.json", "preprocessor_config.json"),
}


def check_folder(folder: str | Path) -> None:
    """Raise `ClipScratchError` if a folder does not hold a complete ClipScratch model, or holds foreign code."""
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise ClipScratchError(f"{folder} has no config.json, so it holds no model; give the folder of a training run.")
    kind = read_json(folder / "config.json").get("model_type")
    if kind != "clipscratch":
        raise ClipScratchError(f"{folder} holds a model of type {kind!r}, not 'clipscratch'; use its own library.")
    missing = [what for what, names in _NEEDED.items() if not any((folder / name).is_file() for name in names)]
    missing = missing or sorted(name for name in code_files(folder) if not (folder / name).is_file())
    if missing:
        raise ClipScratchError(
            f"{folder} lacks {' and '.join(missing)}, so nobody could load it; give the folder of a training run, or "
            "save the model and its processor there."
        )
    check_code(folder)
    if (folder / SUMS).is_file() and (damage := find_damage(folder)):
        raise ClipScratchError(
            f"{folder} is damaged: {damage}; copy the folder again, or delete its {SUMS} if you changed it."
        )


def code_files(folder: Path) -> set[str]:
    """Return the names of the files that `trust_remote_code=True` runs: the model's code, and what it imports."""
    model = folder / f"modeling{CODE}"
    try:
        return {Path(name).name for name in (model, *get_relative_import_files(model))}
    except FileNotFoundError as error:
        return {Path(error.filename).name}


def read_facts(folder: Path) -> dict:
    """Return `config`, `run`, `recipe`, `versions`, `state`, `parameters`, `files`, `measured`, `image_size` and
    `max_length`; what the folder lacks is empty.

    Raises:
        ClipScratchError: If the folder holds no complete ClipScratch model, or a file is damaged.
    """
    check_folder(folder)
    with naming_damaged_files(folder):
        config = ClipScratchConfig.from_pretrained(folder)
        parameters = count_parameters(folder)
        size = _read(folder, "processor_config.json").get("image_processor", {})
        size = size.get("crop_size") or size.get("size") or {}
        max_length = _read(folder, "tokenizer_config.json").get("model_max_length")
    run, recipe = read_run(folder), _read(folder, "recipe.yaml")
    return {
        "config": config,
        "run": run,
        "recipe": recipe,
        "versions": _read(folder, "versions.json"),
        "state": _read(folder, "trainer_state.json"),
        "parameters": parameters,
        "files": {path.name for path in folder.iterdir()},
        "measured": _measured(folder, run, recipe),
        "image_size": size.get("height") or size.get("shortest_edge"),
        "max_length": max_length,
    }


def read_run(folder: Path) -> dict:
    """Return the facts about the run that its recipe does not hold."""
    empty = {"dataset": {}, "towers": {}, "trained_parameters": {}, "processes": 1}
    empty |= dict.fromkeys(("steps", "images_seen", "seconds", "cores", "precision"))
    callbacks = _read(folder, "trainer_state.json").get("stateful_callbacks", {})
    return empty | callbacks.get("TrainingRecord", {}).get("attributes", {})


def count_parameters(folder: Path) -> dict[str, int]:
    """Count the weights of the text tower, the vision tower and the heads without loading them."""
    counts = {"text": 0, "vision": 0, "heads": 0}
    sides = {"text_model": "text", "vision_model": "vision"}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="numpy") as tensors:
            for name in tensors.keys():  # noqa: SIM118
                size = math.prod(tensors.get_slice(name).get_shape())
                counts[sides.get(name.split(".")[0], "heads")] += size
    return counts


def read_account(folder: Path) -> dict:
    """Return what the folder's report says about itself; empty if there is none, or it is of other weights."""
    account = _read(folder, f"{REPORT}/{ACCOUNT}")
    digest = account.get("weights_sha256")
    return account if digest is not None and digest == weights_sha256(folder) else {}


def _measured(folder, run, recipe):
    """What the run and its report measured: `name`, `split`, `task`, `rows`, `metrics`, `command`, `by_training`."""
    entries, data = {}, run["dataset"]
    for dataset, metrics in _read(folder, "metrics.json").items():
        split, task = data.get("measured"), "zero_shot" if "top1" in metrics else "retrieval"
        name = data.get("name") or dataset
        rows = data.get("rows", {}).get(split)
        about = {"name": _last_part(name, data), "split": split, "task": task, "rows": rows, "metrics": metrics}
        command = eval_command(about["name"], split, recipe)
        entries[about["name"], split, task] = {**about, "command": command, "by_training": True}
    account, metrics = read_account(folder), _read(folder, f"{REPORT}/metrics.json")
    if not account and (folder / REPORT / ACCOUNT).is_file():
        logger.info("%s is of other weights; the card leaves it out.", folder / REPORT)
    for dataset, about in account.get("data", {}).items():
        if dataset in metrics:
            # Of the same rows these are the figures that the command gives to the last digit.
            about = {**about, "metrics": metrics[dataset], "command": account["command"], "by_training": False}
            entries[about["name"], about["split"], about["task"]] = about
    return [entry for entry in entries.values() if entry["metrics"]]


def _last_part(name, data):
    return name if data.get("source") == "hub" else PureWindowsPath(name).name


def eval_command(dataset: str, split: str | None, recipe: dict) -> str:
    """Return the command that measures a model on the data of a recipe."""
    words = ["clipscratch", "eval", "--model", "MODEL", "--dataset", dataset]
    words += ["--split", split] if split not in (None, "test") else []
    for field in (*DATA_OPTIONS, "validation_fraction"):
        if (value := recipe.get(field)) is not None and field != "cache_dir":
            words += [f"--{field}", *(value if isinstance(value, list) else [str(value)])]
    return shlex.join(words)


def _read(folder, name):
    """Return the object in a JSON or YAML file of the folder; empty if there is no such file."""
    path = folder / name
    if not path.is_file():
        return {}
    if path.suffix == ".json":
        return read_json(path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ClipScratchError(f"{path} is damaged ({reason}); copy or write it again.") from error
    if not isinstance(content, dict):
        raise ClipScratchError(f"{path} is damaged (it is no mapping); copy or write it again.")
    return content
