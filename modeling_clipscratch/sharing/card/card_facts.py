"""A trained folder goes in; what its card tells comes out, as far as the folder knows it and without local paths."""

import logging
import math
import re
import shlex
from collections.abc import Mapping
from pathlib import Path, PureWindowsPath

import yaml
from safetensors import SafetensorError, safe_open
from transformers.dynamic_module_utils import get_relative_import_files

from ...data.columns import DATA_OPTIONS
from ...evaluation.evaluate_dataset import TASKS
from ...evaluation.report.metric_tables import ACCOUNT, weights_sha256
from ...hub.configuration_clipscratch import ClipScratchConfig
from ...hub.errors_clipscratch import ClipScratchError
from ...training.saving.run_folder import CARD, is_of_a_run
from ...utils.checksums import SUMS, read_sums, sha256
from ...utils.local_files import read_json
from ...utils.model_files import CODE
from ...utils.names import is_local

logger = logging.getLogger(__name__)

REPORT = "report"  # folder of a model's folder and repository
_UNKNOWN = {"dataset": {}, "towers": {}, "trained_parameters": {}, "processes": 1}
_UNKNOWN |= dict.fromkeys(("steps", "images_seen", "seconds", "cores", "precision"))
# What a card needs of each file: {key: shape}, with `str` for all other keys, [shape of each], {allowed}, or types.
_METRICS = {str: {str: (int, float, list)}}
_RUN = {
    "dataset": {
        **dict.fromkeys(("name", "source", "kind", "revision", "measured"), str),
        **{"rows": {str: int}, "class_names": [str], "templates": [str], "captions": int},
    },
    "towers": {str: {"name": str, "source": str}},
    "trained_parameters": {str: int},
    **dict.fromkeys(("steps", "images_seen", "seconds", "processes", "cores"), (int, float)),
    "precision": str,
}
_SHAPES = {
    "config.json": {},
    "processor_config.json": {"image_processor": {"crop_size": {str: int}, "size": {str: int}}},
    "tokenizer_config.json": {"model_max_length": (int, float)},
    "tokenizer.json": {"model": {"vocab": (dict, list)}},
    "versions.json": {str: str},
    "trainer_state.json": {"stateful_callbacks": {"TrainingRecord": {"attributes": _RUN}}},
    "recipe.yaml": {str: object},
    "metrics.json": _METRICS,
    f"{REPORT}/metrics.json": _METRICS,
    f"{REPORT}/{ACCOUNT}": {
        **{"command": str, "weights_sha256": str, "files": [str]},
        "data": {str: {"name": str, "split": str, "task": set(TASKS), "rows": int}},
    },
}
_SOURCES = ("dataset", "text_tower", "vision_tower", "tokenizer")  # fields that may name something of the Hub


def read_facts(folder: Path) -> dict:
    """
    Returns: `config`, `run`, `recipe`, `versions`, `parameters`, `files`, `measured`, `image_size`, `max_length`; what
        the folder lacks is empty.
    Raises: ClipScratchError if it holds no ClipScratch model, or a file is damaged or not as training wrote it.
    """
    settings = _read(folder, "config.json")
    if settings.get("model_type") != "clipscratch":
        raise ClipScratchError(
            f"{folder} holds no ClipScratch model (config.json); give the folder that training wrote."
        )
    record = _read(folder, "trainer_state.json").get("stateful_callbacks", {}).get("TrainingRecord", {})
    run = {**_UNKNOWN, **record.get("attributes", {})}
    recipe = public_recipe(_read(folder, "recipe.yaml"), run)
    of_a_run = {path for path in folder.iterdir() if path.name not in (CARD, SUMS) and is_of_a_run(path)}
    code = code_files(folder)
    files = [file_facts(path) for path in sorted(of_a_run) if path.suffix != ".py" or path.name in code]
    _check_sums(folder, files)
    size = _read(folder, "processor_config.json").get("image_processor", {})
    size = size.get("crop_size") or size.get("size") or {}
    return {
        "config": _config(folder, settings),
        "run": run,
        "recipe": recipe,
        "versions": _read(folder, "versions.json"),
        "parameters": count_parameters(folder),
        "files": files,
        "measured": _measured(folder, run, recipe),
        "image_size": size.get("height") or size.get("shortest_edge"),
        "max_length": _read(folder, "tokenizer_config.json").get("model_max_length"),
        "vocabulary": len(_read(folder, "tokenizer.json").get("model", {}).get("vocab", {})),
    }


def file_facts(path: Path) -> dict:
    """Name, bytes and SHA-256 of a file."""
    return {"name": path.name, "bytes": path.stat().st_size, "sha256": sha256(path)}


def _check_sums(folder, files):
    sums = read_sums(folder) if (folder / SUMS).is_file() else {}
    for file in files:
        if sums.get(file["name"], file["sha256"]) != file["sha256"]:
            raise ClipScratchError(
                f"{folder} is damaged: {file['name']} does not match {SUMS}; copy the folder again, or, if you changed "
                f"it on purpose, delete its {SUMS}."
            )


def count_parameters(folder: Path) -> dict[str, int]:
    """Weights of the text tower, the vision tower and the heads, counted in the files' heads."""
    counts = {"text": 0, "vision": 0, "heads": 0}
    sides = {"text_model": "text", "vision_model": "vision"}
    for path in folder.glob("*.safetensors"):
        try:
            with safe_open(path, framework="numpy") as tensors:
                sizes = {name: math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise ClipScratchError(f"{path} is damaged ({error}); copy the folder again.") from error
        for name, size in sizes.items():
            counts[sides.get(name.split(".")[0], "heads")] += size
    return counts


def public_recipe(recipe: Mapping, run: Mapping) -> dict:
    """A recipe whose paths are names: only the run knows that a word with a slash was an id of the Hub.

    >>> public_recipe({"dataset": "photos/birds", "text_tower": "me/bert", "templates": ["/home/me/prompts.txt"]},
    ...               {"towers": {"text": {"name": "me/bert", "source": "hub"}}})
    {'dataset': 'birds', 'text_tower': 'me/bert', 'templates': ['prompts.txt']}
    """
    known = [run.get("dataset", {}), *run.get("towers", {}).values()]
    ids = {source["name"] for source in known if source.get("source") == "hub"}

    def shown(name, value):
        if isinstance(value, list):
            return [shown(name, entry) for entry in value]
        if not isinstance(value, str) or value in ids:
            return value
        a_path = name in _SOURCES or is_local(value) or re.search(r"[/\\]\S*\.\w+$", value)
        return PureWindowsPath(value).name if a_path else value

    return {name: shown(name, value) for name, value in recipe.items()}


def code_files(folder: Path) -> set[str]:
    """Names of the files that `trust_remote_code=True` runs: the model's code, and what it imports."""
    model = folder / f"modeling{CODE}"
    try:
        return {Path(name).name for name in (model, *get_relative_import_files(model))}
    except FileNotFoundError as error:
        return {Path(error.filename).name}


def report_account(folder: Path) -> dict:
    """What the folder's `report/` says of itself; empty where that is nothing, or it was made of other weights."""
    account = _read(folder, f"{REPORT}/{ACCOUNT}")
    of = account.get("weights_sha256")
    return account if of is not None and of == weights_sha256(folder) else {}


def _measured(folder: Path, run: Mapping, recipe: Mapping) -> list[dict]:
    """What the run and its `report/` measured: `name`, `split`, `task`, `rows`, `metrics`, `command`, `by_training`."""
    found, told = {}, run["dataset"]
    for given, metrics in _read(folder, "metrics.json").items():
        name, split = told.get("name") or PureWindowsPath(given).name, told.get("measured")
        task = "zero_shot" if "top1" in metrics else "retrieval"
        command = _command(given if told.get("source") == "hub" else name, split, recipe)
        about = {"name": name, "split": split, "task": task, "rows": told.get("rows", {}).get(split)}
        found[name, split, task] = {**about, "metrics": metrics, "command": command, "by_training": True}
    report = folder / REPORT
    account, metrics = report_account(folder), _read(folder, f"{REPORT}/metrics.json")
    if not account and (report / ACCOUNT).is_file():
        logger.info("%s was made of other weights; the card leaves it out.", report)
    told = {given: about for given, about in account.get("data", {}).items() if given in metrics}  # not of another
    for given, about in told.items():
        # Of figures of the same rows these are the ones that the command gives to the last digit.
        found.pop((about["name"], about["split"], about["task"]), None)
        if [other["name"] for other in told.values()].count(about["name"]) > 1:  # birds/pictures and cats/pictures
            about = {**about, "name": "/".join(PureWindowsPath(given).parts[-2:])}
        by = {"command": account["command"], "by_training": False}
        found[given, about["split"], about["task"]] = {**about, "metrics": metrics[given], **by}
    return [entry for entry in found.values() if entry["metrics"]]


def _command(dataset: str, split: str | None, recipe: Mapping) -> str:
    words = ["clipscratch", "eval", "--model", "MODEL", "--dataset", dataset]
    words += ["--split", split] if split not in (None, "test") else []
    for field in (*DATA_OPTIONS, "validation_fraction"):
        if field == "cache_dir":  # a place on this machine
            continue
        value = recipe.get(field)
        if value is not None:
            words += [f"--{field}", *(value if isinstance(value, list) else [str(value)])]
    return shlex.join(words)


def _read(folder, name):
    """The mapping in a JSON or YAML file of the folder; empty where there is no such file."""
    path = folder / name
    if not path.is_file():
        return {}
    if path.suffix == ".json":
        content = read_json(path)
    else:
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise ClipScratchError(f"{path} is damaged ({reason}); copy or write it again.") from error
    if not isinstance(content, dict) or not _fits(content, _SHAPES[name]):
        raise ClipScratchError(
            f"{path} is damaged (it holds something else than a run or a report writes); copy it again."
        )
    return content


def _fits(value, shape):
    if value is None:
        return True  # what is not known
    if isinstance(shape, dict):
        shapes = {key: shape.get(key, shape.get(str, object)) for key in value} if isinstance(value, dict) else None
        return shapes is not None and all(_fits(value[key], shapes[key]) for key in value)
    if isinstance(shape, list):
        return isinstance(value, list) and all(_fits(entry, shape[0]) for entry in value)
    return value in shape if isinstance(shape, set) else isinstance(value, shape)


def _config(folder, settings):
    try:
        return ClipScratchConfig(**settings)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ClipScratchError(
            f"{folder / 'config.json'} holds a value that cannot be used ({error}); copy it again."
        ) from error
