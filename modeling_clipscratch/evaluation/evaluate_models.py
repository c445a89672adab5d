"""Measure several models on several datasets, and compare them."""

from collections.abc import Mapping, Sequence

from ..data.load import ImageTextData
from ..data.splits import canonical_split
from ..data.templates import DEFAULT_TEMPLATES
from .evaluate_dataset import PROBES, Result, evaluate_dataset, task_for, titled
from .load_model import load_model
from .metrics.intervals import over_seeds, paired_differences
from .report.metric_tables import Differences, text_comparison, text_table

Evaluations = Mapping[str, Mapping[str, Result]]  # model -> dataset -> result


def evaluate_models(
    models: Sequence[str],
    data: Mapping[str, ImageTextData],
    *,
    split: str = "test",
    task: str = "auto",
    device: str = "auto",
    **settings,
) -> Evaluations:
    """Measure every model on every dataset.

    Args:
        models: folders or Hub ids, each once.
        data: name -> what `load_data` returned: `split`, and `train` for a probe.
        split: the split to measure on.
        task, settings: of `evaluate_dataset`.
        device: of `load_model`.

    Raises:
        ClipScratchError: Before anything is measured, if a model cannot be loaded or the task does not fit.
    """
    split = canonical_split(split)
    for parts in data.values():
        task_for(parts[split], task)
    evaluations = {}
    for name, (model, processor) in {name: load_model(name, device) for name in models}.items():
        evaluations[name] = {}
        for where, parts in data.items():
            # `load_data` returns the default for data without templates; those of the model come first.
            templates = None if parts.templates == list(DEFAULT_TEMPLATES) else parts.templates
            train = parts.get("train") if task in PROBES else None
            options = {"templates": templates, "task": task, "train": train, **settings}
            evaluations[name][where] = evaluate_dataset(model, processor, parts[split], **options)
    return evaluations


def differences_to_first(evaluations: Evaluations) -> Differences:
    """Compute dataset -> model -> metric -> its difference to the first model, on the same images."""
    first, *others = evaluations
    return {
        where: {name: paired_differences(result.outcomes, evaluations[name][where].outcomes) for name in others}
        for where, result in evaluations[first].items()
    }


def text_summary(evaluations: Evaluations, differences: Differences, *, seeds: bool = False) -> str:
    """Write the figures for a terminal, with the number of broken images that were left out.

    With `seeds` the models are seeds of one recipe; their mean and standard deviation are added.
    """
    results = {where: result for of in evaluations.values() for where, result in of.items()}
    heads = {where: titled(where, result.task) for where, result in results.items()}
    metrics = {model: {heads[where]: one.metrics for where, one in of.items()} for model, of in evaluations.items()}
    differences = {heads[where]: of for where, of in differences.items()}
    first = next(iter(metrics.values()))
    parts = [text_table(first) if len(metrics) == 1 else text_comparison(metrics, differences)]
    if seeds:
        columns = {}
        for where in first:
            spread = over_seeds([of[where] for of in metrics.values()])
            columns[f"{where}, mean of {len(metrics)} seeds"] = {name: entry["mean"] for name, entry in spread.items()}
            columns[f"{where}, standard deviation"] = {name: entry["std"] for name, entry in spread.items()}
        parts.append(text_table(columns))
    parts += [f"{where}: {of.skipped} broken images left out." for where, of in results.items() if of.skipped]
    return "\n\n".join(parts)
