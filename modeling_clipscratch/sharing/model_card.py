"""Write the model card of a trained folder: `README.md` with metadata that the Hub reads."""

import json
import logging
import re
import shlex
from pathlib import Path
from urllib.parse import quote

import jinja2
import yaml
from huggingface_hub import EvalResult, ModelCardData

from ..data.columns import DATA_OPTIONS
from ..data.templates import DEFAULT_TEMPLATES
from ..evaluation.report.markdown import Markdown, code, code_block, escaped
from ..evaluation.report.metric_tables import INTERVAL, shown_of, values_only
from ..evaluation.safe_loading import check_code, explaining_load_errors
from ..hub.configuration_clipscratch import ClipScratchConfig
from ..training.saving.run_folder import CARD, OUR_CARD, is_our_card
from ..utils.atomic_files import write_text
from ..utils.checksums import SUMS, find_damage
from ..utils.errors import ClipScratchError
from ..utils.local_files import read_json
from ..utils.names import CODE, hide_paths

logger = logging.getLogger(__name__)

_NEEDED = ("config.json", "model*.safetensors", f"modeling{CODE}", "tokenizer_config.json", "*processor_config.json")
_CAPTIONS = ["a boat with a white sail on blue water", "a dog running through the snow", "two people at a table"]
_METRICS = {"top1": "accuracy", "mean_per_class_recall": "recall"}  # our name: the Hub's, where it has one


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
    check_folder(folder)
    text = _render(folder, repo_id or folder.resolve().name, license, language)
    if path.is_file() and not is_our_card(path):
        logger.warning("%s was written by hand and is kept; delete it to have one written.", path)
    else:
        write_text(path, text)
    return path


def check_folder(folder: Path) -> None:
    """Raise `ClipScratchError` if a folder does not hold a complete ClipScratch model, or holds foreign code."""
    if missing := [name for name in _NEEDED if not any(folder.glob(name))]:
        raise ClipScratchError(
            f"{folder} has no {' and no '.join(missing)}, so nobody could load it; give the folder of a training run, "
            "or save the model and its processor there."
        )
    kind = read_json(folder / "config.json").get("model_type")
    if kind != "clipscratch":
        raise ClipScratchError(f"{folder} holds a model of type {kind!r}, not 'clipscratch'; use its own library.")
    check_code(folder)
    if (folder / SUMS).is_file() and (damage := find_damage(folder)):
        raise ClipScratchError(
            f"{folder} is damaged: {damage}; copy the folder again, or delete its {SUMS} if you changed it."
        )


def _render(folder, model, license, language):
    with explaining_load_errors(folder):
        config = ClipScratchConfig.from_pretrained(folder)
    state, recipe = _read(folder, "trainer_state.json"), read_recipe(folder)
    run = state.get("stateful_callbacks", {}).get("TrainingRecord", {}).get("attributes", {})  # of `run_facts`
    data, name = run.get("dataset", {}), model.split("/")[-1]
    rows, split = data.get("rows", {}), data.get("measured")
    measured, metrics = next(iter(_read(folder, "metrics.json").items()), ("", {}))
    dataset = data.get("name") or Path(measured).name
    results = _eval_results(dataset, split, metrics, data)
    template = (data.get("templates") or config.templates or DEFAULT_TEMPLATES)[0]
    labels = (data.get("class_names") or config.class_names or [])[:10]
    base = [tower["name"] for tower in run.get("towers", {}).values() if tower["source"] == "hub"]
    front = ModelCardData(  # ids of the Hub, and no names of local data
        license=license,
        language=language,
        library_name="transformers",
        pipeline_tag="zero-shot-image-classification",
        tags=["clip", "clipscratch", "contrastive-learning", "image-text-retrieval"],
        datasets=[dataset] if data.get("source") == "hub" else None,
        base_model=base or None,
        base_model_relation="finetune" if base else None,  # the Hub would take two bases for a merge
        metrics=list(dict.fromkeys(result.metric_type for result in results)) or None,
        model_name=name if results else None,
        eval_results=results or None,
    )
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__, "."),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.ChainableUndefined,  # a folder may lack any file of a run
        finalize=escaped,  # every expression that is not `Markdown`: anybody chose the names of data and classes
    )
    environment.filters.update(
        code=code,
        code_block=code_block,
        markdown=Markdown,
        python=lambda value: Markdown(json.dumps(value, ensure_ascii=False)),
        hub_link=_hub_link,
    )
    page = environment.get_template("card.md.jinja").render(
        front=Markdown(front.to_yaml()),
        ours=Markdown(OUR_CARD),
        name=name,
        model=model,
        config=vars(config),
        run=run,
        recipe=recipe,
        state=state,
        versions=_read(folder, "versions.json"),
        files={path.name for path in folder.iterdir()},
        split=split,
        results={metric: shown_of(metrics, metric) for metric in values_only(metrics)},
        dataset=dataset,
        command=eval_command(model, dataset, split, recipe),
        data_link=_hub_link(dataset, "datasets/") if data.get("source") == "hub" else code(dataset),
        rows={split: rows[split] for split in ("train", "validation", "test", *rows) if split in rows},
        texts=[template.replace("{}", label) for label in labels] or _CAPTIONS,
        recipe_yaml=yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True, width=110).strip(),
    )
    return hide_paths(re.sub(r"\n{3,}", "\n\n", page).rstrip() + "\n", recipe)


def _hub_link(name, kind=""):
    return Markdown(f"[{escaped(name)}](https://huggingface.co/{kind}{quote(name)})")


def _eval_results(name, split, metrics, data):
    # The Hub takes one slash at most in a dataset's type, and has no task of retrieval between images and texts.
    plain = re.sub(r"[^\w.-]+", "-", name.split("/")[-1], flags=re.ASCII).strip("-.") or "data"
    return [
        EvalResult(
            task_type="zero-shot-image-classification",
            task_name="Zero-Shot Image Classification" if "top1" in metrics else "Image-Text Retrieval",
            dataset_type=name if data.get("source") == "hub" else plain,
            dataset_name=name,
            dataset_split=split,
            metric_type=_METRICS.get(metric, metric),
            metric_name=metric,
            metric_value=value,
            metric_args={"ci95": metrics[metric + INTERVAL]} if metric + INTERVAL in metrics else None,
        )
        for metric, value in values_only(metrics).items()
    ]


def eval_command(model: str, dataset: str, split: str | None, recipe: dict) -> str:
    """Return the command that measures a model on the data of a recipe."""
    words = ["clipscratch", "eval", "--model", model, "--dataset", dataset]
    words += ["--split", split] if split not in (None, "test") else []
    for field in (*DATA_OPTIONS, "validation_fraction"):
        if (value := recipe.get(field)) is not None and field != "cache_dir":
            words += [f"--{field}", *(value if isinstance(value, list) else [str(value)])]
    return shlex.join(words)


def read_recipe(folder: Path) -> dict:
    """Return the options of the run; empty if the folder has none."""
    path = folder / "recipe.yaml"
    return yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _read(folder, name):
    return read_json(folder / name) if (folder / name).is_file() else {}
