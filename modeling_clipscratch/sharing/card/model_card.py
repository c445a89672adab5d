"""A trained folder goes in; its model card, `README.md` with metadata that the Hub reads, comes out."""

import json
import logging
import re
import shlex
from pathlib import Path

import jinja2
import yaml
from huggingface_hub import EvalResult, ModelCardData

from ...evaluation.report.markdown import Markdown, code, code_block, escaped
from ...evaluation.report.metric_tables import INTERVAL, shown_of, values_only
from ...training.saving.run_folder import CARD, OUR_CARD, is_our_card
from ...utils.atomic_files import write_text
from .card_facts import read_facts
from .card_text import describe_budget, describe_data, describe_loss, describe_tower, limits, sample

logger = logging.getLogger(__name__)

_METRICS = {  # ours -> the Hub's name of the same, where it has one
    "top1": "accuracy",
    "mean_per_class_recall": "recall",
}
_TASKS = {  # ours -> type and name on the Hub, which has no retrieval between pictures and texts
    "zero_shot": ("zero-shot-image-classification", "Zero-Shot Image Classification"),
    "retrieval": ("zero-shot-image-classification", "Image-Text Retrieval"),
    "knn": ("image-classification", "k Nearest Neighbours"),
    "linear_probe": ("image-classification", "Linear Probe"),
}


def write_card(
    folder: str | Path, *, repo_id: str | None = None, license: str | None = None, language: str | None = None
) -> Path:
    """Writes the model card of a trained folder, from what lies there and nothing else.

    A card that somebody made his own, by deleting the comment that says it is written anew, is left as it is.

    Args:
        folder: a run's, or of `save_pretrained` with the processor.
        repo_id: where the model will lie on the Hub; without one the snippets name the folder and run beside it.
        license: the Hub's name of the model's licence (`apache-2.0`), where there is one.
        language: ISO 639-1 code of the texts that the model reads, where it is known.
    Returns: the path of the card.
    Raises: ClipScratchError if the folder holds no ClipScratch model.

    >>> write_card("runs/digits", repo_id="you/digits").name
    'README.md'
    >>> print("".join(open("runs/digits/README.md").readlines()[:2]), end="")
    ---
    library_name: transformers
    """
    path = Path(folder) / CARD
    facts = read_facts(Path(folder))
    if path.is_file() and not is_our_card(path):
        logger.warning("%s was written by hand and stays as it is; delete it to have one made.", path)
        return path
    text = render_card(facts, model=repo_id or Path(folder).resolve().name, license=license, language=language)
    write_text(path, text)
    return path


def render_card(facts: dict, *, model: str, license: str | None, language: str | None) -> str:
    """The card's text.

    Args:
        facts: of `read_facts`.
        model: what the snippets load: a Hub id, or a folder's name.
        license, language: of `write_card`.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__, "."),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=escaped,  # every expression that is no `Markdown`: names of data, classes and files are of anybody
    )
    environment.filters.update(shown_of=shown_of, values_only=values_only, code=code, code_block=code_block)
    environment.filters["python"] = lambda value: Markdown(json.dumps(value, ensure_ascii=False))
    name = model.split("/")[-1]
    measured = [{**entry, "command": _with_model(entry["command"], model)} for entry in facts["measured"]]
    page = environment.get_template("card.md.jinja").render(
        {**facts, "measured": measured},
        model=model,
        name=name,
        ours=Markdown(OUR_CARD),
        front=Markdown(metadata(facts, name=name, license=license, language=language).to_yaml()),
        towers={side: describe_tower(facts, side) for side in ("text", "vision")},
        loss=describe_loss(facts["config"]),
        data=describe_data(facts),
        budget=describe_budget(facts),
        limits=limits(facts),
        sample=sample(facts),
        recipe_yaml=yaml.safe_dump(facts["recipe"], sort_keys=False, allow_unicode=True, width=110).strip(),
    )
    return page.rstrip() + "\n"


def metadata(facts: dict, *, name: str, license: str | None, language: str | None) -> ModelCardData:
    """What the Hub reads of a card: only what it accepts, so ids of the Hub and no names of local data."""
    run = facts["run"]
    base = [tower["name"] for tower in run["towers"].values() if tower["source"] == "hub"]
    data = run["dataset"]
    results = [result for entry in facts["measured"] for result in eval_results(entry, data)]
    return ModelCardData(
        license=license,
        language=language,
        library_name="transformers",
        pipeline_tag="zero-shot-image-classification",
        tags=["clip", "clipscratch", "contrastive-learning", "image-text-retrieval"],
        datasets=[data["name"]] if data.get("source") == "hub" else None,
        base_model=base or None,
        base_model_relation="finetune" if base else None,  # of two bases the Hub would make a merge
        metrics=list(dict.fromkeys(result.metric_type for result in results)) or None,
        model_name=name if results else None,
        eval_results=results or None,
    )


def eval_results(entry: dict, data: dict) -> list[EvalResult]:
    """An entry of `measured` as the results of a model index; an interval is an argument of its metric.

    Args: data: the run's account of its data set, which alone knows whether a name is an id of the Hub.
    """
    task_type, task_name = _TASKS[entry["task"]]
    metrics = entry["metrics"]
    on_hub = data.get("source") == "hub" and data["name"] == entry["name"]
    return [
        EvalResult(
            task_type=task_type,
            task_name=task_name,
            dataset_type=entry["name"] if on_hub else _plain(entry["name"]),
            dataset_name=entry["name"],
            dataset_split=entry["split"],
            metric_type=_METRICS.get(name, name),
            metric_name=name,
            metric_value=value,
            metric_args={"ci95": metrics[name + INTERVAL]} if name + INTERVAL in metrics else None,
        )
        for name, value in values_only(metrics).items()
    ]


def _plain(name):
    """A name as the Hub allows it for a data set's type, which has at most one slash."""
    return re.sub(r"[^\w.-]+", "-", name.split("/")[-1], flags=re.ASCII).strip("-.") or "data"


def _with_model(command, model):
    words = shlex.split(command)
    if "--model" in words:
        words[words.index("--model") + 1] = model
    return shlex.join(words)
