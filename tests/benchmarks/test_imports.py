"""Check that every benchmark can be imported."""

import importlib
from pathlib import Path

import pytest

import benchmarks

NAMES = sorted(path.stem for path in Path(benchmarks.__path__[0]).glob("*.py") if path.stem != "__init__")


@pytest.mark.parametrize("name", NAMES)
def test_benchmark_can_be_imported(name):
    try:
        importlib.import_module(f"benchmarks.{name}")
    except ModuleNotFoundError as error:
        if error.name.split(".")[0] not in ("clip_benchmark", "open_clip"):  # compared with, not installed
            raise
        pytest.skip(f"{error.name} is not installed; the benchmark's docstring says how")
