"""Download the common tests of the installed transformers into the environment, for `test_common.py`.

python -m tests.hub.fetch_common_tests

They are in the source distribution only, so pip downloads that. They import test classes from folders that it leaves
out (generation, exporters), which concern models that generate text; empty classes stand in.
"""

import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path

PACKAGE = Path(sys.prefix) / "transformers_tests"  # one folder for each version
STAND_INS = {
    "exporters/test_export.py": "class ExportTesterMixin: ...\n",
    "generation/test_utils.py": "class GenerationTesterMixin: ...\n",
    "utils/test_configuration_utils.py": "config_common_kwargs = {}\n",
}


def folder() -> Path:
    """Return the folder of the tests of the installed version; its parent is for `sys.path`."""
    return PACKAGE / f"v{version('transformers').replace('.', '_')}" / "transformers_tests"


def fetch() -> None:
    """Download and unpack them, unless they are there."""
    place = folder()
    if (place / "__init__.py").is_file():
        return
    with tempfile.TemporaryDirectory() as temporary:
        options = ["--no-deps", "--no-binary", "transformers", f"transformers=={version('transformers')}"]
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *options, "--dest", temporary], check=True)
        with tarfile.open(next(Path(temporary).glob("*.tar.gz"))) as archive:
            archive.extractall(temporary, filter="data")
        for path in sorted(Path(temporary).glob("transformers-*/tests/test_*.py")):
            place.mkdir(parents=True, exist_ok=True)
            (place / path.name).write_text(path.read_text())
    for name, text in STAND_INS.items():
        path = place / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        (path.parent / "__init__.py").touch()
    (place / "__init__.py").touch()  # last: it marks the folder as complete


if __name__ == "__main__":
    try:
        fetch()
    except (subprocess.CalledProcessError, OSError) as error:
        print(f"transformers' common tests cannot be had ({error}); tests/hub/test_common.py will be skipped.")
