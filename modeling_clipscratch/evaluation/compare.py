"""Models and data sets go in; results by model and data set, and the models' differences, come out."""

from collections.abc import Mapping, Sequence

from ..data.rows import Rows
from .evaluate_rows import Result, evaluate_rows, task_for
from .intervals import Difference, over_seeds, paired_differences
from .loading import load_model
from .text_map import with_maps

Evaluations = Mapping[str, Mapping[str, Result]]  # model -> data set -> result


def evaluate_models(
    models: Sequence[str],
    data: Mapping[str, Rows],
    *,
    train: Mapping[str, Rows],
    task: str = "auto",
    device: str = "auto",
    maps: bool = False,
    **settings,
) -> Evaluations:
    """Measures every model on every data set.

    Args:
        models: folders or Hub ids, each once.
        data: name -> rows to measure on.
        train: name -> rows that a probe learns from; empty for other tasks.
        task, settings: of `evaluate_rows`.
        device: of `load_model`.
        maps: also make the maps of where a model looks, for the report.
    Raises: ValueError before anything is measured, if a model cannot be loaded or the task does not fit.
    """
    for rows in data.values():
        task_for(rows, task)
    loaded = {name: load_model(name, device) for name in models}
    evaluations = {}
    for name, (model, processor) in loaded.items():
        evaluations[name] = {}
        for where, rows in data.items():
            result = evaluate_rows(model, processor, rows, task=task, train=train.get(where), **settings)
            evaluations[name][where] = with_maps(model, processor, result) if maps else result
    return evaluations


def differences_to_first(evaluations: Evaluations) -> dict[str, dict[str, dict[str, Difference]]]:
    """Data set -> model -> metric -> its difference to the first model, on the same pictures."""
    first, *others = evaluations
    return {
        where: {
            name: paired_differences(evaluations[first][where].outcomes, evaluations[name][where].outcomes)
            for name in others
        }
        for where in evaluations[first]
    }


def seeds_table(evaluations: Evaluations) -> dict[str, dict[str, float]]:
    """The models as seeds of one recipe: a column of means and one of standard deviations for each data set."""
    columns = {}
    for where in next(iter(evaluations.values())):
        spread = over_seeds([results[where].metrics for results in evaluations.values()])
        columns[f"{where}, mean of {len(evaluations)}"] = {name: found["mean"] for name, found in spread.items()}
        columns["standard deviation"] = {name: found["std"] for name, found in spread.items()}
    return columns
