"""Measure several models on several datasets, and compare them."""

from collections.abc import Mapping, Sequence

from ..data.load import ImageTextData
from ..data.templates import DEFAULT_TEMPLATES
from .evaluate_dataset import Result, check_measurable, evaluate_dataset
from .load_model import load_model
from .metrics.intervals import paired_differences
from .report.metric_tables import Differences, public_names, text_table

Evaluations = Mapping[str, Mapping[str, Result]]  # model -> dataset -> result


def evaluate_models(
    models: Sequence[str], data: Mapping[str, ImageTextData], *, device: str = "auto", **settings
) -> Evaluations:
    """Measure every model on the one split that `load_data` returned for each name, after all models are loaded.

    `settings` are those of `evaluate_dataset`.
    """
    for parts in data.values():
        check_measurable(*parts.values())
    evaluations = {}
    for name, (model, processor) in {name: load_model(name, device) for name in models}.items():
        evaluations[name] = {}
        for where, parts in data.items():
            # `load_data` returns the default for data without templates; those of the model come first.
            templates = None if parts.templates == list(DEFAULT_TEMPLATES) else parts.templates
            options = {"templates": templates, **settings}
            evaluations[name][where] = evaluate_dataset(model, processor, *parts.values(), **options)
    return evaluations


def differences_to_first(evaluations: Evaluations) -> Differences:
    """Compute dataset -> model -> metric -> its difference to the first model, on the same images."""
    first, *others = evaluations
    return {
        where: {name: paired_differences(result.outcomes, evaluations[name][where].outcomes) for name in others}
        for where, result in evaluations[first].items()
    }


def text_summary(evaluations: Evaluations, differences: Differences) -> str:
    """Write the figures for a terminal, with the number of broken images that were left out."""
    short, results = public_names(list(evaluations)), next(iter(evaluations.values()))
    if len(evaluations) == 1:
        parts = [text_table({where: result.metrics for where, result in results.items()})]
    else:
        parts = []
        for where in results:
            metrics = {short[model]: of[where].metrics for model, of in evaluations.items()}
            apart = {short[model]: of for model, of in differences[where].items()}
            parts.append(f"{where}\n{text_table(metrics, apart)}")
    parts += [f"{where}: {of.skipped} broken images left out." for where, of in results.items() if of.skipped]
    return "\n\n".join(parts)
