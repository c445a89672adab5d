"""A trained folder goes in; its card, or its page on the Hub, comes out.

python run_share.py card runs/mine
python run_share.py push runs/mine you/your-clip --private true
"""

import argparse
import os
import signal
import sys

if sys.argv[0].endswith(("run_share.py", "clipscratch-share")):
    # While the libraries are imported; then it is `run_command`'s.
    signal.signal(signal.SIGINT, lambda *_: (os.write(2, b"stopped.\n"), os._exit(130)))

from modeling_clipscratch.cli.command_line import run_command
from modeling_clipscratch.sharing.card.model_card import is_our_card, write_card
from modeling_clipscratch.sharing.card.card_facts import check_folder
from modeling_clipscratch.sharing.push_model import push_folder


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="run_share.py", description="Gives a trained model to others.")
    subparsers = parser.add_subparsers(required=True, metavar="command", title="commands (each has a --help)")
    card_parser = subparsers.add_parser("card", help="writes the model's card, README.md, into its folder")
    card_parser.add_argument("folder", help="what training wrote")
    card_parser.add_argument("--repo_id", help="you/name, for the card's examples")
    card_parser.set_defaults(run=card)
    push_parser = subparsers.add_parser(
        "push",
        help="publishes a folder on the Hub, in one commit: model, code, processor, card, results",
        description="Publishes a trained folder on the Hub, in one commit. A report in the folder goes with it; its "
        "sample sheets show pictures of the data set. Checkpoints stay.",
    )
    push_parser.add_argument("folder", help="what training wrote")
    push_parser.add_argument("repo_id", help="you/name; made where it is not there")
    push_parser.add_argument("--private", choices=["true", "false"], help="who may see it, if it is made now")
    push_parser.add_argument("--revision", help="branch, made where it is not there (default: main)")
    push_parser.set_defaults(run=push)
    for with_card in (card_parser, push_parser):
        with_card.add_argument("--license", help="the Hub's name of the model's licence, such as apache-2.0")
        with_card.add_argument("--language", help="ISO 639-1 code of the texts that the model reads, such as en")
    return parser.parse_args(arguments)


def card(options: argparse.Namespace) -> None:
    check_folder(options.folder)
    path = write_card(options.folder, repo_id=options.repo_id, license=options.license, language=options.language)
    if is_our_card(path):
        print(f"wrote {path}")


def push(options: argparse.Namespace) -> None:
    private = None if options.private is None else options.private == "true"
    of_card = {"license": options.license, "language": options.language}
    page = push_folder(options.folder, options.repo_id, private=private, revision=options.revision, **of_card)
    print(f"published: {page}")


def main(arguments: list[str]) -> None:
    options = parse(arguments)
    options.run(options)


def program() -> None:
    run_command(main)


if __name__ == "__main__":
    program()
