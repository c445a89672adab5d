"""Write the model card of a trained folder: `README.md` with metadata that the Hub reads."""

import json
import logging
import math
import re
import shlex
from pathlib import Path, PureWindowsPath
from urllib.parse import quote

import jinja2
import yaml
from huggingface_hub import EvalResult, ModelCardData
from safetensors import safe_open
from transformers.dynamic_module_utils import get_relative_import_files

from ..data.columns import DATA_OPTIONS
from ..data.templates import DEFAULT_TEMPLATES
from ..evaluation.report.markdown import Markdown, code, code_block, escaped
from ..evaluation.report.metric_tables import ACCOUNT, INTERVAL, shown_of, values_only, weights_sha256
from ..evaluation.safe_loading import check_code, explaining_load_errors
from ..hub.configuration_clipscratch import ClipScratchConfig
from ..training.saving.run_folder import CARD, OUR_CARD, is_our_card
from ..utils.atomic_files import write_text
from ..utils.checksums import SUMS, find_damage
from ..utils.errors import ClipScratchError
from ..utils.local_files import read_json
from ..utils.model_files import CODE
from .public_text import hide_paths

logger = logging.getLogger(__name__)

REPORT = "report"  # folder with the report of a model, in its folder and repository
_NEEDED = {
    "the weights": ("model.safetensors", "model.safetensors.index.json"),
    "the model's code": (f"modeling{CODE}",),
    "the tokenizer": ("tokenizer_config.json",),
    "the image processor": ("processor_config.json", "preprocessor_config.json"),
}
_MOST_LABELS = 10  # in an example
_METRICS = {"top1": "accuracy", "mean_per_class_recall": "recall"}  # our name: the Hub's, where it has one
_TASKS = {  # our name: type and name on the Hub, which has no retrieval between images and texts
    "zero_shot": ("zero-shot-image-classification", "Zero-Shot Image Classification"),
    "retrieval": ("zero-shot-image-classification", "Image-Text Retrieval"),
    "knn": ("image-classification", "k Nearest Neighbours"),
    "linear_probe": ("image-classification", "Linear Probe"),
}


def write_card(
    folder: str | Path, *, repo_id: str | None = None, license: str | None = None, language: str | None = None
) -> Path:
    """Write the model card of a trained folder, from nothing but the files in it.

    A card without the comment that says it will be overwritten belongs to the user and is kept.

    Args:
        folder: Folder of a run, or of `save_pretrained` of a model and its processor.
        repo_id: The model's id on the Hub; without it the examples load the folder.
        license: The Hub's name of the model's licence, such as `apache-2.0`.
        language: ISO 639-1 code of the language that the model reads.

    Returns:
        The path of the card.

    Raises:
        ClipScratchError: If the folder holds no ClipScratch model, or a file is damaged.

    >>> write_card("runs/digits", repo_id="you/digits").name
    'README.md'
    """
    folder, path = Path(folder), Path(folder) / CARD
    try:
        facts, model = read_facts(folder), repo_id or folder.resolve().name
        text = render_card(facts, model=model, license=license, language=language)
    except ClipScratchError:
        raise
    except (jinja2.UndefinedError, TypeError, AttributeError, KeyError, ValueError) as error:
        raise ClipScratchError(
            f"{folder} has a JSON or YAML file that a run would not write ({error}); copy the folder again."
        ) from error
    if path.is_file() and not is_our_card(path):
        logger.warning("%s was written by hand and is kept; delete it to have one written.", path)
    else:
        write_text(path, hide_paths(text, facts["recipe"]))
    return path


def render_card(facts: dict, *, model: str, license: str | None, language: str | None) -> str:
    """Return the card's text; the examples load `model`, a Hub id or a folder's name."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__, "."),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=escaped,  # every expression that is not `Markdown`: anybody chose the names of data and classes
    )
    environment.filters.update(
        shown_of=shown_of,
        values_only=values_only,
        code=code,
        code_block=code_block,
        duration=_duration,
        markdown=Markdown,
        python=lambda value: Markdown(json.dumps(value, ensure_ascii=False)),
        hub_link=lambda name, kind="": Markdown(f"[{escaped(name)}](https://huggingface.co/{kind}{quote(name)})"),
    )
    name, data = model.split("/")[-1], facts["run"]["dataset"]
    labels = (data.get("class_names") or facts["config"].class_names or [])[:_MOST_LABELS]
    template = (data.get("templates") or facts["config"].templates or DEFAULT_TEMPLATES)[0]
    rows = data.get("rows") or {}
    page = environment.get_template("card.md.jinja").render(
        {
            **facts,
            "measured": [{**entry, "command": _with_model(entry["command"], model)} for entry in facts["measured"]],
        },
        model=model,
        name=name,
        ours=Markdown(OUR_CARD),
        front=Markdown(metadata(facts, name=name, license=license, language=language).to_yaml()),
        labels=labels,
        rows={split: rows[split] for split in ("train", "validation", "test", *rows) if split in rows},
        template=template,
        plain=template.count("{") == template.count("}") == template.count("{}") == 1,  # fit for `str.format`
        recipe_yaml=yaml.safe_dump(facts["recipe"], sort_keys=False, allow_unicode=True, width=110).strip(),
    )
    return re.sub(r"\n{3,}", "\n\n", page).rstrip() + "\n"


def metadata(facts: dict, *, name: str, license: str | None, language: str | None) -> ModelCardData:
    """Return what the Hub reads of a card: ids of the Hub, and no names of local data."""
    run = facts["run"]
    data, towers = run["dataset"], run["towers"].values()
    base = [tower["name"] for tower in towers if tower["source"] == "hub"]
    results = [result for entry in facts["measured"] for result in eval_results(entry, data)]
    return ModelCardData(
        license=license,
        language=language,
        library_name="transformers",
        pipeline_tag="zero-shot-image-classification",
        tags=["clip", "clipscratch", "contrastive-learning", "image-text-retrieval"],
        datasets=[data["name"]] if data.get("source") == "hub" else None,
        base_model=base or None,
        base_model_relation="finetune" if base else None,  # the Hub would take two bases for a merge
        metrics=list(dict.fromkeys(result.metric_type for result in results)) or None,
        model_name=name if results else None,
        eval_results=results or None,
    )


def eval_results(entry: dict, data: dict) -> list[EvalResult]:
    """Convert an entry of `measured` to results of a model index; an interval is an argument of its metric."""
    task_type, task_name = _TASKS[entry["task"]]
    name, metrics = entry["name"], entry["metrics"]
    # The Hub takes one slash at most in a dataset's type.
    plain = re.sub(r"[^\w.-]+", "-", name.split("/")[-1], flags=re.ASCII).strip("-.") or "data"
    return [
        EvalResult(
            task_type=task_type,
            task_name=task_name,
            dataset_type=name if data.get("source") == "hub" and data["name"] == name else plain,
            dataset_name=name,
            dataset_split=entry["split"],
            metric_type=_METRICS.get(metric, metric),
            metric_name=metric,
            metric_value=value,
            metric_args={"ci95": metrics[metric + INTERVAL]} if metric + INTERVAL in metrics else None,
        )
        for metric, value in values_only(metrics).items()
    ]


def _duration(seconds):
    """
    >>> _duration(42.3), _duration(930.0), _duration(9000.0)
    ('42 s', '15.5 min', '2.5 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _with_model(command, model):
    words = shlex.split(command)
    if "--model" in words:
        words[words.index("--model") + 1] = model
    return shlex.join(words)


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
    with explaining_load_errors(folder):
        config, parameters = ClipScratchConfig.from_pretrained(folder), count_parameters(folder)
    size = _read(folder, "processor_config.json").get("image_processor", {})
    size = size.get("crop_size") or size.get("size") or {}
    run, recipe = read_run(folder), read_recipe(folder)
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
        "max_length": _read(folder, "tokenizer_config.json").get("model_max_length"),
    }


def read_recipe(folder: Path) -> dict:
    """Return the options of the run."""
    return _read(folder, "recipe.yaml")


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
        name = data.get("name") or PureWindowsPath(dataset).name
        about = {"name": name, "split": split, "task": task, "rows": data.get("rows", {}).get(split)}
        command = eval_command(name, split, recipe)
        entries[name, split, task] = {**about, "metrics": metrics, "command": command, "by_training": True}
    account, metrics = read_account(folder), _read(folder, f"{REPORT}/metrics.json")
    if not account and (folder / REPORT / ACCOUNT).is_file():
        logger.info("%s is of other weights; the card leaves it out.", folder / REPORT)
    for dataset, about in account.get("data", {}).items():
        if dataset in metrics:
            # Of the same rows these are the figures that the command gives to the last digit.
            about = {**about, "metrics": metrics[dataset], "command": account["command"], "by_training": False}
            entries[about["name"], about["split"], about["task"]] = about
    return [entry for entry in entries.values() if entry["metrics"]]


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
