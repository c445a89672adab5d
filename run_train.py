"""Recipe -> trained folder: python run_train.py configuration/digits.yaml --output_dir DIR [--field value ...]"""

import os
import signal
import sys
from pathlib import Path

if sys.argv[0].endswith(("run_train.py", "clipscratch-train")):
    # While the libraries are imported; then it is `run_command`'s.
    signal.signal(signal.SIGINT, lambda *_: (os.write(2, b"stopped.\n"), os._exit(130)))

from modeling_clipscratch.cli.command_line import run_command
from modeling_clipscratch.evaluation.report.metric_tables import text_table
from modeling_clipscratch.sharing.card.model_card import write_card
from modeling_clipscratch.sharing.push_model import push_trained
from modeling_clipscratch.training.recipe.recipe import parse_recipe
from modeling_clipscratch.training.run import train
from modeling_clipscratch.training.saving.run_folder import RECIPE, lock_run_folder


def main(arguments: list[str]) -> None:
    model, data, args, settings = parse_recipe(arguments)
    with lock_run_folder(args.output_dir, writes=args.should_save):
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


def program() -> None:
    run_command(main)


if __name__ == "__main__":
    program()
