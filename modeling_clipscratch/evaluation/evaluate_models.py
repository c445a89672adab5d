"""Measure several models on several datasets, and compare them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..data.load import ImageTextData
from ..data.splits import canonical_split
from .evaluate_dataset import PROBES, Result, evaluate_dataset, task_for, titled
from .load_model import load_model
from .metrics.intervals import over_seeds, paired_differences
from .plots.text_maps import make_maps
from .report.comparison import Differences, text_comparison
from .report.metric_tables import text_table

Evaluations = Mapping[str, Mapping[str, Result]]  # model -> dataset -> result


def evaluate_models(
    models: Sequence[str],
    data: Mapping[str, ImageTextData],
    *,
    split: str = "test",
    task: str = "auto",
    device: str = "auto",
    maps: bool = False,
    **settings,
) -> Evaluations:
    """Measure every model on every dataset.

    Args:
        models: folders or Hub ids, each once.
        data: name -> what `load_data` gave: `split`, and `train` for a probe.
        split: the split to measure on.
        task, settings: of `evaluate_dataset`.
        device: of `load_model`.
        maps: also make the maps of where a model looks, for the report.
    Raises: ClipScratchError before anything is measured, if a model cannot be loaded or the task does not fit.

    >>> from modeling_clipscratch.data import load_data
    >>> evaluations = evaluate_models(["runs/digits"], {"digits": load_data("digits")})
    >>> sorted(evaluations["runs/digits"]["digits"].metrics)[:3]
    ['expected_calibration_error', 'expected_calibration_error_ci95', 'mean_per_class_recall']
    """
    split = canonical_split(split)
    for parts in data.values():
        task_for(parts[split], task)
    loaded = {name: load_model(name, device) for name in models}
    evaluations = {}
    for name, (model, processor) in loaded.items():
        evaluations[name] = {}
        for where, parts in data.items():
            train = parts.get("train") if task in PROBES else None
            named = {"templates": parts.templates, "task": task, "train": train, **settings}
            result = evaluate_dataset(model, processor, parts[split], **named)
            evaluations[name][where] = replace(result, maps=make_maps(model, processor, result)) if maps else result
    return evaluations


def differences_to_first(evaluations: Evaluations) -> Differences:
    """Dataset -> model -> metric -> its difference to the first model, on the same images; none of one model.

    >>> from modeling_clipscratch.data import load_data
    >>> first = evaluate_models(["runs/digits"], {"digits": load_data("digits")})["runs/digits"]
    >>> same = differences_to_first({"first": first, "second": first})["digits"]["second"]["top1"]
    >>> same.value, same.p_value
    (0.0, 1.0)
    """
    first, *others = evaluations
    return {
        where: {name: paired_differences(result.outcomes, evaluations[name][where].outcomes) for name in others}
        for where, result in evaluations[first].items()
    }


def text_summary(evaluations: Evaluations, differences: Differences, *, seeds: bool = False) -> str:
    """The figures for a terminal; with `seeds` the models are seeds of one recipe, whose mean and spread follow.

    >>> from modeling_clipscratch.data import load_data
    >>> evaluations = evaluate_models(["runs/digits"], {"digits": load_data("digits")})
    >>> "top1" in text_summary(evaluations, differences={})
    True
    """
    heads = {where: titled(where, found.task) for of in evaluations.values() for where, found in of.items()}
    metrics = {model: {heads[where]: found.metrics for where, found in of.items()} for model, of in evaluations.items()}
    differences = {heads[where]: of for where, of in differences.items()}
    first = next(iter(metrics.values()))
    tables = [text_table(first) if len(metrics) == 1 else text_comparison(metrics, differences)]
    if seeds:
        columns = {}
        for where in first:
            spread = over_seeds([of[where] for of in metrics.values()])
            columns[f"{where}, mean of {len(metrics)} seeds"] = {name: found["mean"] for name, found in spread.items()}
            columns[f"{where}, standard deviation"] = {name: found["std"] for name, found in spread.items()}
        tables.append(text_table(columns))
    return "\n\n".join(tables)
