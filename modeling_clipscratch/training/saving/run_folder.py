"""Lock, check, begin and finish the folder of a run."""

import contextlib
import json
import os
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
import yaml
from filelock import FileLock, Timeout
from transformers import CONFIG_MAPPING

from ...data.dataset import class_names
from ...utils.atomic_files import replacing_files, write_text
from ...utils.checksums import SUMS, write_sums
from ...utils.errors import ClipScratchError
from ...utils.names import is_local, is_of_a_model, public_name
from ...utils.versions import versions
from ..optimization.sharding import own_class
from .checkpoints import STAGING

RECIPE = "recipe.yaml"
CARD = "README.md"
OUR_CARD = "<!-- Written by ClipScratch, which writes it anew. To keep your own words, delete this line. -->"
# What a run writes besides its checkpoints and the model.
OF_A_RUN = {RECIPE, "trainer_state.json", "metrics.json", "versions.json", "curves.png", CARD, SUMS}
LOCK = ".lock"
# Where a run lies and what it shows, which its recipe does not keep, and the Hub's options: a token must never be kept.
_NOT_KEPT = ("output_dir", "resume_from_checkpoint", "overwrite_output_dir", "cache_dir", "disable_tqdm", "report_to")
_PATIENCE = 10  # seconds for which workers that a killed run leaves behind may hold the lock


@contextlib.contextmanager
def lock_run_folder(folder: str | Path, *, writes: bool = True) -> Iterator[None]:
    """Keep other runs out of a folder while this process writes there; raise `ClipScratchError` if another run does.

    The end of the process frees the folder in any case. A folder that was made for the lock alone is removed. Of the
    processes of a run only the one that writes locks it.
    """
    if not writes:
        yield
        return
    folder = Path(folder)
    existed, lock = folder.is_dir(), FileLock(folder / LOCK)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=_PATIENCE)
    except Timeout as error:
        raise ClipScratchError(
            f"output_dir={folder} is in use by another run; wait until it ends, stop it, or choose another output_dir."
        ) from error
    except OSError as error:
        raise OSError(
            f"output_dir={folder} cannot be written to ({error.strerror}); choose another output_dir."
        ) from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows deletes no locked file
            (folder / LOCK).unlink()
            if not existed and not any(folder.iterdir()):
                folder.rmdir()
        lock.release()


def _resumes(folder, checkpoint):
    return checkpoint is not None and Path(checkpoint).resolve().parent == folder.resolve()


def check_run_folder(folder: str | Path, checkpoint: str | None, *, overwrite: bool, resume: bool) -> None:
    """Raise `ClipScratchError` if a folder holds another run, or files that no run wrote; change nothing.

    With `resume` a checkpoint was asked for, also where there is none yet.
    """
    folder = Path(folder)
    names = sorted(path.name for path in folder.iterdir() if not _is_leftover(path)) if folder.is_dir() else []
    stopped_early = names == [RECIPE] or (resume and checkpoint is None and "config.json" not in names)
    if not names or _resumes(folder, checkpoint) or (RECIPE in names and (overwrite or stopped_early)):
        return
    content, remedy = f"other files ({names[0]}{', ...' if len(names) > 1 else ''})", ""
    if RECIPE in names:
        content = "another run"
        remedy = "--overwrite_output_dir to replace it, --resume_from_checkpoint auto to resume it, or "
    raise ClipScratchError(f"output_dir={folder} holds {content}; use {remedy}another output_dir.")


def _is_leftover(path):
    """Return whether a killed run left a file or folder half written; `begin_run_folder` deletes it."""
    return path.name in (STAGING, LOCK) or path.name.endswith(".part")


def begin_run_folder(folder: str | Path, settings: dict, checkpoint: str | None = None) -> None:
    """Write the named settings into a folder; delete what another run than the checkpoint's left, and nothing else."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for path in () if _resumes(folder, checkpoint) else folder.iterdir():
        if path.is_dir() and (path.name.startswith("checkpoint-") or _is_leftover(path)):
            shutil.rmtree(path)
        elif path.is_file() and is_of_a_run(path) and path.name not in (LOCK, RECIPE):
            path.unlink()
    kept = {name: value for name, value in settings.items() if name not in _NOT_KEPT and "hub_" not in name}
    kept.pop("push_to_hub", None)
    write_text(folder / RECIPE, yaml.safe_dump(kept, sort_keys=False, allow_unicode=True))


def is_of_a_run(path: Path) -> bool:
    """Return whether a run wrote a file: model, code, results, or the card while it carries our line."""
    if path.name == CARD:
        return is_our_card(path)
    return path.name in OF_A_RUN | {".gitattributes"} or is_of_a_model(path.name) or path.name.endswith(".part")


def is_our_card(path: Path) -> bool:
    """Return whether a README.md carries the line that says that we write it; one that a person wrote does not."""
    return OUR_CARD in path.read_text(encoding="utf-8", errors="replace")


def finish_run_folder(trainer, weights, metrics: dict, facts: dict) -> None:
    """Write the model, its processor and the run's results: first beside their places, then renamed into them."""
    from ...evaluation.plots.curves import plot_curves  # brings matplotlib, which is slow to import

    folder, state, model = Path(trainer.args.output_dir), trainer.state, trainer.accelerator.unwrap_model(trainer.model)
    state.stateful_callbacks["TrainingRecord"] = {"args": {}, "attributes": facts}
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    depends_on = {**versions(), "platform": platform.platform(), "device": device}
    notes = "".join(f"# {note}\n" for note in trainer.record.notes)
    # The config last: with it the folder can be loaded.
    with own_class(model), replacing_files(folder, last="config.json") as staging:
        model.save_pretrained(staging, state_dict=weights)
        trainer.processing_class.save_pretrained(staging)
        state.save_to_json(str(staging / "trainer_state.json"))
        (staging / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
        (staging / "versions.json").write_text(json.dumps(depends_on, indent=2) + "\n")
        (staging / RECIPE).write_text(notes + (folder / RECIPE).read_text(encoding="utf-8"), encoding="utf-8")
        plot_curves(state.log_history, staging / "curves.png")
        write_sums(staging)


def run_facts(model_options, data, trainer, splits: dict, templates, measured: str, trained: dict) -> dict:
    """Describe what a run was trained on, and measured on (a split), for its card; no path of the user's machine.

    `seconds` are those of training with its evaluations, over all resumed parts.
    """
    names = class_names(splits["train"])
    dataset = _source(data.dataset, built_in=data.dataset in ("digits", "scenes"))
    dataset |= {"kind": "caption" if names is None else "class", "streamed": data.streaming, "measured": measured}
    if dataset["source"] == "hub":
        dataset["revision"] = data.dataset_revision
    dataset["rows"] = {split: len(part) for split, part in splits.items() if not (data.streaming and split == "train")}
    if not data.streaming:
        dataset["rows"]["train"] = len(trainer.train_pairs)  # bad rows may have been left out
    if names is not None:
        dataset["class_names"], dataset["templates"] = names, list(templates)
    elif not data.streaming:
        dataset["captions"] = sum(map(len, trainer.train_pairs.dataset["captions"][:]))
    towers = {side: getattr(model_options, f"{side}_tower") for side in ("text", "vision")}
    args, state = trainer.args, trainer.state
    chosen = args.load_best_model_at_end and state.best_model_checkpoint is not None
    timed = [line["seconds"] for line in state.log_history if "seconds" in line]
    return {
        **trainer.record.state()["attributes"],
        "dataset": dataset,
        "towers": {side: _source(name, scratch=name in CONFIG_MAPPING) for side, name in towers.items()},
        "trained_parameters": trained,
        "steps": state.global_step,
        "chosen_by": args.metric_for_best_model if chosen else None,  # of validation
        "seconds": round(timed[-1], 1) if timed else None,
        "processes": args.world_size,
        "cores": os.cpu_count(),
        "precision": args.precision,
    }


def count_trained(model) -> dict[str, int]:
    """Count the weights with a gradient, adapters among them, of the text tower, the vision tower and the heads."""
    counts = {"text": 0, "vision": 0, "heads": 0}
    sides = {"text_model": "text", "vision_model": "vision"}
    for name, parameter in model.named_parameters():
        counts[sides.get(name.split(".")[0], "heads")] += parameter.numel() * parameter.requires_grad
    return counts


def _source(name, *, built_in=False, scratch=False):
    source = "built-in" if built_in else "scratch" if scratch else "local" if is_local(name) else "hub"
    return {"name": public_name(name), "source": source}
