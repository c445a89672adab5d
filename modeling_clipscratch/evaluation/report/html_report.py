"""Results, their differences and their pictures go in; the text of one HTML page that needs no other file comes out.

Jinja escapes every name and caption. Pictures travel inside the page.
"""

import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

import jinja2

from ..evaluate_dataset import Result, titled
from ..plots.all_plots import Picture
from .comparison import Differences, data_sets, short_names
from .html_parts import as_data_uri, comparison_shown, data_set_shown

PACKAGES = ("clipscratch", "torch", "transformers", "numpy", "scikit-learn", "matplotlib")


def render_page(
    evaluations: Mapping[str, Mapping[str, Result]],
    pictures: Mapping[str, Mapping[str, Sequence[Picture]]],
    *,
    differences: Differences | None = None,
    curves: Path | None = None,
    command: str | None = None,
) -> str:
    """
    Args:
        evaluations: model -> data set -> its result.
        pictures: model -> data set -> what `draw_pictures` drew of it.
        differences: data set -> model -> metric -> difference to the first model.
        curves: PNG of the runs' curves.
        command: that measured.
    """
    names, sets = short_names(list(evaluations)), data_sets(evaluations)
    tasks = {name: found.task for results in evaluations.values() for name, found in results.items()}
    shorter = {name: titled(short, tasks[name]) for name, short in short_names(sets).items()}
    template = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    ).get_template("page.html")
    several = len(evaluations) > 1
    return template.render(
        title=" and ".join(names.values()) if len(names) <= 3 else f"{len(names)} models",
        date=datetime.now().astimezone().strftime("%d %B %Y, %H:%M"),
        command=command,
        versions=versions(),
        comparisons=[comparison_shown(evaluations, name, shorter[name], names, differences) for name in sets]
        if several
        else [],
        curves=None if curves is None else as_data_uri(curves),
        models=[
            {
                "name": names[model],
                "full": model,
                "data_sets": [
                    data_set_shown(found, name, shorter[name], pictures[model][name]) for name, found in results.items()
                ],
            }
            for model, results in evaluations.items()
        ],
    )


def versions() -> dict[str, str]:
    """Package -> version; those that are not installed as packages (a clone) are left out."""
    found = {"Python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
