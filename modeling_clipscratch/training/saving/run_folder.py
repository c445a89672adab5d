"""Lock, check, begin and finish the folder of a run."""

import contextlib
import json
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
import yaml
from filelock import FileLock, Timeout
from transformers import CONFIG_MAPPING

from ...data.dataset import class_names
from ...utils.atomic_files import explaining_failures, replacing_files, write_text
from ...utils.checksums import SUMS, write_sums
from ...utils.errors import ClipScratchError
from ...utils.names import is_local, is_of_a_model, public_name
from ...utils.versions import versions
from .checkpoints import STAGING, wants_to_resume

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

    Of the processes of a run only the one that writes locks it; its end frees the folder in any case.
    """
    if not writes:
        yield
        return
    folder, lock = Path(folder), FileLock(Path(folder) / LOCK)
    with explaining_failures(folder):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=_PATIENCE)
        except Timeout as error:
            raise ClipScratchError(
                f"output_dir={folder} is in use by another run; wait until it ends, stop it, or choose another "
                "output_dir."
            ) from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows deletes no locked file
            (folder / LOCK).unlink()
            folder.rmdir()  # if nothing was written
        lock.release()


def _resumes(folder, checkpoint):
    return checkpoint is not None and Path(checkpoint).resolve().parent == folder.resolve()


def check_run_folder(args, checkpoint: str | None) -> None:
    """Raise `ClipScratchError` if the folder of a run holds another run, or files that no run wrote; change nothing."""
    folder, resume = Path(args.output_dir), wants_to_resume(args.resume_from_checkpoint)
    names = sorted(path.name for path in folder.iterdir() if not _is_leftover(path)) if folder.is_dir() else []
    stopped_early = names == [RECIPE] or (resume and checkpoint is None and "config.json" not in names)
    if not names or _resumes(folder, checkpoint) or (RECIPE in names and (args.overwrite_output_dir or stopped_early)):
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


def finish_run_folder(trainer, metrics: dict, facts: dict) -> None:
    """Write the model, its processor and the run's results: first beside their places, then renamed into them."""
    from ...evaluation.plots.curves import plot_curves  # brings matplotlib, which is slow to import

    folder, state, model = Path(trainer.args.output_dir), trainer.state, trainer.accelerator.unwrap_model(trainer.model)
    state.stateful_callbacks["TrainingRecord"] = {"args": {}, "attributes": facts}
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    machine = {"platform": platform.platform(), "device": device}
    # The config last: with it the folder can be loaded.
    with replacing_files(folder, last="config.json") as staging:
        model.save_pretrained(staging)
        trainer.processing_class.save_pretrained(staging)
        state.save_to_json(str(staging / "trainer_state.json"))
        (staging / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
        (staging / "versions.json").write_text(json.dumps({**versions(), **machine}, indent=2) + "\n")
        plot_curves(state.log_history, staging / "curves.png")
        shutil.copy(folder / RECIPE, staging)  # so that its digest is among the others
        write_sums(staging)


def run_facts(model_options, data, trainer, splits: dict, templates, measured: str) -> dict:
    """Describe for the card what a run was trained on, and measured on (a split); no path of the user's machine.

    `seconds` are those of training with its evaluations, over all resumed parts.
    """
    names, args, state, model = class_names(splits["train"]), trainer.args, trainer.state, trainer.model
    dataset = _source(data.dataset, built_in=data.dataset in ("digits", "scenes")) | {"measured": measured}
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
    chosen = args.load_best_model_at_end and state.best_model_checkpoint is not None
    timed = [line["seconds"] for line in state.log_history if "seconds" in line]
    return {
        **trainer.record.state()["attributes"],
        "dataset": dataset,
        "towers": {side: _source(name, scratch=name in CONFIG_MAPPING) for side, name in towers.items()},
        "trained_parameters": {side: count_trained(getattr(model, f"{side}_model")) for side in towers},
        "steps": state.global_step,
        "chosen_by": args.metric_for_best_model if chosen else None,  # of validation
        "seconds": round(timed[-1], 1) if timed else None,
        "processes": args.world_size,
        "precision": args.precision,
    }


def count_trained(module) -> int:
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def _source(name, *, built_in=False, scratch=False):
    source = "built-in" if built_in else "scratch" if scratch else "local" if is_local(name) else "hub"
    return {"name": public_name(name), "source": source}
