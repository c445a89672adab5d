"""`clipscratch train`: train a model from a recipe."""

from pathlib import Path

from ..evaluation.report.metric_tables import text_table
from ..sharing.model_card import write_card
from ..sharing.push_model import push_trained
from ..training.recipe.recipe import parse_recipe
from ..training.run import train
from ..training.saving.run_folder import RECIPE


def main(arguments: list[str]) -> None:
    model, data, args, settings = parse_recipe(arguments)
    try:
        metrics = train(model, data, args, settings)
    except BaseException as error:
        if Path(args.output_dir, RECIPE).is_file():
            error.add_note("To resume the run, add --resume_from_checkpoint auto to the command.")
        raise
    if args.should_save:
        print(text_table(metrics))
        write_card(args.output_dir)
        print(f"model, metrics and curves: {args.output_dir}")
    if args.push_to_hub and args.process_index == 0:
        print(f"published: {push_trained(args)}")
