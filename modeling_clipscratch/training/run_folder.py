"""A run's parts go in; its folder comes out, each file whole or not there at all."""

import importlib.metadata
import json
import os
import platform
import re
import shutil
from pathlib import Path

import torch
import yaml
from safetensors import SafetensorError
from transformers.trainer_utils import get_last_checkpoint

from .sharding import own_class

RECIPE = "recipe.yaml"
CARD = "README.md"
OUR_CARD = "<!-- Written by ClipScratch, which writes it anew. To keep your own words, delete this line. -->"
CODE = "_clipscratch.py"  # ends of the names of the model's code
# What loads a model and its processor, besides the code.
OF_A_MODEL = {"config.json", "model.safetensors", "processor_config.json", "preprocessor_config.json"}
OF_A_MODEL |= {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt"}
OF_A_MODEL |= {"vocab.json", "merges.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model"}
# What a run leaves behind besides its checkpoints and the model.
OF_A_RUN = {RECIPE, "trainer_state.json", "metrics.json", "run.json", "versions.json", "curves.png", CARD}
# What may differ between a run and its continuation, and is no part of the recipe that is kept.
_FREE_TO_CHANGE = {"output_dir", "resume_from_checkpoint", "overwrite_output_dir", "cache_dir", "disable_tqdm", "debug"}
_FREE_TO_CHANGE |= {"logging_steps", "report_to", "save_total_limit", "dataloader_num_workers", "push_to_hub"}
# A token must never be: the recipe is published.
_FREE_TO_CHANGE |= {"hub_model_id", "hub_strategy", "hub_token", "hub_private_repo", "hub_always_push", "hub_revision"}
PUSHING = ".pushing"  # folder of what is on its way to the Hub


def check_run_folder(folder: str | Path, settings: dict, *, overwrite: bool, resume: bool) -> None:
    """Refuses a folder that this run may not write to; changes nothing.

    Args:
        settings: every field that the recipe or the command line named.
        overwrite: another run's leavings are to be deleted.
        resume: the folder's run is to go on, so its recipe must be this one.
    Raises: ValueError if the folder holds another run, or files that no run wrote.
    """
    folder = Path(folder)
    there = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"output_dir={folder} is a file; choose another output_dir.")
    if RECIPE in there and resume:
        before, now = yaml.safe_load((folder / RECIPE).read_text()), _kept(settings)
        changed = sorted(n for n in {*before, *now} - _free_to_change(settings) if before.get(n) != now.get(n))
        if changed:
            name = changed[0]
            raise ValueError(
                f"{folder} was begun with {name}={before.get(name)!r}, not {now.get(name)!r}; "
                "resume with its own recipe, or choose another output_dir."
            )
    elif there and there != [RECIPE] and not (RECIPE in there and overwrite):
        # A recipe alone is what a run left that was stopped before its first checkpoint.
        what = "another run" if RECIPE in there else f"other files ({there[0]}{', ...' if len(there) > 1 else ''})"
        ways = (
            "--overwrite_output_dir to begin anew, --resume_from_checkpoint auto to go on, or "
            if RECIPE in there
            else ""
        )
        raise ValueError(f"output_dir={folder} holds {what}; use {ways}another output_dir.")


def begin_run_folder(folder: str | Path, settings: dict, *, resume: bool) -> None:
    """Makes the folder and leaves the recipe there; what another run left there goes, nothing else."""
    folder = Path(folder)
    if (folder / RECIPE).is_file() and resume:
        return
    folder.mkdir(parents=True, exist_ok=True)
    _delete_run(folder)
    write_text(folder / RECIPE, yaml.safe_dump(_kept(settings), sort_keys=False, allow_unicode=True))


def _kept(settings):
    return {name: value for name, value in settings.items() if name not in _free_to_change(settings)}


def _free_to_change(settings):
    # The rows of a stream are dealt to the workers.
    return _FREE_TO_CHANGE - ({"dataloader_num_workers"} if settings.get("streaming") else set())


def _delete_run(folder):
    for events in folder.glob("runs/*/**/events.out.tfevents.*"):  # where transformers has TensorBoard write
        events.unlink()
    for path in sorted(folder.glob("runs/**"), reverse=True):  # innermost first; what others wrote stays
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()
    for path in folder.iterdir():
        if path.is_dir() and (path.name.startswith("checkpoint-") or path.name in (".incomplete", PUSHING)):
            shutil.rmtree(path)
        elif is_of_a_run(path):
            path.unlink()


def is_of_a_run(path: Path) -> bool:
    """Whether a run wrote a file: its model, code, results, or the card as long as nobody made it his own."""
    if path.name == CARD:
        return is_our_card(path)
    return path.name in OF_A_RUN | {".gitattributes"} or is_of_a_model(path.name) or path.name.endswith(".part")


def is_of_a_model(path: str) -> bool:
    """Whether a file of a folder or repository, by its path in there, is one of those that load the model.

    >>> [is_of_a_model(path) for path in ("config.json", "model-00001-of-00002.safetensors", "last/config.json")]
    [True, True, False]
    """
    shard = path.startswith("model") and path.endswith((".safetensors", ".safetensors.index.json"))
    return "/" not in path and (shard or path in OF_A_MODEL or path.endswith(CODE))


def is_our_card(path: Path) -> bool:
    """Whether a README.md still carries the line that says so; one that a person wrote, or took over, does not."""
    return OUR_CARD in path.read_text(encoding="utf-8", errors="replace")


def wants_to_resume(wanted: str | None) -> bool:
    """Whether `resume_from_checkpoint` asks for it: not where it is left out, `false` or `no`."""
    return wanted is not None and str(wanted).lower() not in ("false", "no")


def find_checkpoint(folder: str | Path, wanted: str | None) -> str | None:
    """`resume_from_checkpoint` -> the checkpoint to go on from, or `None` to begin.

    Args:
        wanted: a checkpoint's path; `auto` (or `true`) for the last whole one in `folder`, if there is any.
    Raises: ValueError if the path is no checkpoint of a ClipScratch model.
    """
    if not wants_to_resume(wanted):
        return None
    if str(wanted).lower() in ("auto", "true"):
        return get_last_checkpoint(str(folder)) if Path(folder).is_dir() else None
    path = Path(wanted)
    if not (path / "trainer_state.json").is_file():
        raise ValueError(f"resume_from_checkpoint={wanted} is no checkpoint folder (no trainer_state.json); try auto.")
    kind = json.loads((path / "config.json").read_text())["model_type"] if (path / "config.json").is_file() else None
    if kind != "clipscratch":
        raise ValueError(
            f"resume_from_checkpoint={wanted} holds a model of type {kind!r}, not 'clipscratch'; "
            "choose a checkpoint that run_train.py wrote."
        )
    return str(path)


def finish_run_folder(
    folder: str | Path, *, model, weights=None, processor, state, metrics: dict, facts: dict, pictures
) -> None:
    """Writes the model, its processor and the run's results: all beside their places first, then renamed into them.

    Args:
        weights: state dict to save, where the model itself holds a part of it only.
        state: the Trainer's.
        metrics: {data set: {metric: value}}.
        facts: what `run.json` is to hold.
        pictures: function (folder) that draws the run's pictures there.
    """
    folder = Path(folder)
    staging = folder / ".incomplete"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        with saying_what_failed(folder), own_class(model):
            model.save_pretrained(staging, state_dict=weights)
            processor.save_pretrained(staging)
            state.save_to_json(str(staging / "trainer_state.json"))
            (staging / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
            (staging / "run.json").write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
            (staging / "versions.json").write_text(json.dumps(versions(), indent=2) + "\n")
            pictures(staging)
            for path in staging.iterdir():  # safetensors makes files that only their owner may read
                path.chmod(0o644)
            sync_folder(staging)
        # The config last: with it the folder can be loaded.
        for path in sorted(staging.iterdir(), key=lambda path: path.name == "config.json"):
            os.replace(path, folder / path.name)
        sync_folder(folder, recursive=False)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def versions() -> dict[str, str]:
    """What a figure of this run depends on besides the recipe."""
    packages = ("torch", "transformers", "datasets", "accelerate", "evaluate", "safetensors", "numpy", "pillow")
    found = {name: importlib.metadata.version(name) for name in packages}
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else _name_of_cpu()
    return {"python": platform.python_version(), "platform": platform.platform(), "device": device, **found}


def _name_of_cpu():
    known = Path("/proc/cpuinfo")  # on Linux `platform` knows the architecture only
    names = re.findall(r"^model name\s*: (.+)$", known.read_text(), re.MULTILINE) if known.is_file() else []
    return names[0] if names else platform.processor() or platform.machine()


class saying_what_failed:
    """Turns a failed write, whichever library made it, into one `OSError` that names the folder."""

    def __init__(self, folder):
        self.folder = folder

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        # For a full disk torch and safetensors have errors of their own, whose words change with where it filled.
        if isinstance(error, (OSError, RuntimeError, SafetensorError)):
            message = f"{type(error).__name__}: {error}"
            free = shutil.disk_usage(self.folder).free
            raise OSError(
                f"writing to {self.folder} failed ({message.splitlines()[0]}; {free / 1e6:.0f} MB are free); "
                "the last whole checkpoint is kept: make room, then go on with --resume_from_checkpoint auto."
            ) from error


def write_text(path: Path, text: str) -> None:
    """Writes a small file whole or not at all."""
    part = path.with_name(path.name + ".part")
    with open(part, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def publish_folder(staged: Path, place: Path) -> None:
    """Brings a folder to disk and renames it into its place, where another of that name gives way."""
    sync_folder(staged)
    if place.exists():
        shutil.rmtree(place)
    os.replace(staged, place)


def sync_folder(folder: Path, *, recursive: bool = True) -> None:
    """Asks the system to bring a folder's files to disk, so that a rename that follows cannot outrun them."""
    for path in [*(folder.rglob("*") if recursive else []), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
