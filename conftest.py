"""Run each doctest where a reader would: beside a `runs/digits` as of `make train`, and a few images."""

import atexit
import os
import shutil
import tempfile

import pytest

# Before transformers or datasets are imported: what tests load, cache and lock is gone with them.
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="clipscratch-tests-")
atexit.register(shutil.rmtree, os.environ["HF_HOME"], ignore_errors=True)

TINY = "--text_hidden_size 16 --text_num_layers 1 --text_num_heads 2 --vision_hidden_size 16 --vision_num_layers 1"
TINY += " --vision_num_heads 2 --projection_dim 16 --max_steps 1 --disable_tqdm true --random_crop_min_area 1.0"


@pytest.fixture(scope="session")
def place_of_doctests(request, tmp_path_factory):
    """A folder with `runs/digits` (the recipe of `make train`, made tiny) and `photos/`."""
    from modeling_clipscratch.cli.train import main
    from modeling_clipscratch.data.dataset import ImageReader
    from modeling_clipscratch.data.load import load_data

    place = tmp_path_factory.mktemp("doctests")
    places = ["--output_dir", str(place / "runs" / "digits"), "--cache_dir", str(place / "cache")]
    main(["digits", *TINY.split(), *places])
    (place / "photos").mkdir()
    images = ImageReader(load_data("digits")["test"])
    for number in range(4):
        images(number).save(place / "photos" / f"{number}.png")
    return place


@pytest.fixture(autouse=True)
def _doctests_have_a_model(request, monkeypatch):
    if isinstance(request.node, pytest.DoctestItem):
        monkeypatch.chdir(request.getfixturevalue("place_of_doctests"))
