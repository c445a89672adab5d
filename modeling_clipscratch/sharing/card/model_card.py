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

from ...data.templates import DEFAULT_TEMPLATES
from ...evaluation.report.markdown import Markdown, code, code_block, escaped
from ...evaluation.report.metric_tables import INTERVAL, shown_of, values_only
from ...hub.errors_clipscratch import ClipScratchError
from ...training.saving.run_folder import CARD, OUR_CARD, is_our_card
from ...utils.atomic_files import write_text
from ..public_text import hide_paths
from .card_facts import read_facts

logger = logging.getLogger(__name__)

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
        model = repo_id or folder.resolve().name
        text = render_card(read_facts(folder), model=model, license=license, language=language)
    except ClipScratchError:
        raise
    except (jinja2.UndefinedError, TypeError, AttributeError, KeyError, ValueError) as error:
        raise ClipScratchError(
            f"{folder} has a JSON or YAML file that a run would not write ({error}); copy the folder again."
        ) from error
    if path.is_file() and not is_our_card(path):
        logger.warning("%s was written by hand and is kept; delete it to have one written.", path)
    else:
        write_text(path, hide_paths(text))
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
    labels = (data.get("class_names") or [])[:_MOST_LABELS]
    template = (data.get("templates") or DEFAULT_TEMPLATES)[0]
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
