"""`clipscratch share`: write the model card of a trained folder, publish it on the Hub."""

import argparse

from ..sharing.model_card import is_our_card, write_card
from ..sharing.push_model import push_folder


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="clipscratch share", description="Share a trained model.")
    commands = parser.add_subparsers(required=True, dest="command", title="commands (each has a --help)")
    card = commands.add_parser("card", help="write the model card, README.md, into the folder")
    push = commands.add_parser(
        "push",
        help="publish the folder on the Hub in one commit: model, code, processor, card, results",
        description="Publish a trained folder on the Hub in one commit. A report in the folder is published too; its "
        "pages show images of the dataset. Checkpoints are not published.",
    )
    for command in (card, push):
        command.add_argument("folder", help="folder that training wrote")
    card.add_argument("--repo_id", help="you/name, for the card's examples")
    push.add_argument("repo_id", help="you/name; created if it does not exist")
    push.add_argument("--private", choices=["true", "false"], help="who may see it, if it is created now")
    push.add_argument("--revision", help="branch, created if it does not exist (default: main)")
    for command in (card, push):
        command.add_argument("--license", help="the Hub's name of the model's licence, such as apache-2.0")
        command.add_argument("--language", help="ISO 639-1 code of the language that the model reads, such as en")
    options = parser.parse_args(arguments)
    about = {"license": options.license, "language": options.language}
    if options.command == "card":
        path = write_card(options.folder, repo_id=options.repo_id, **about)
        if is_our_card(path):
            print(f"wrote {path}")
    else:
        private = None if options.private is None else options.private == "true"
        page = push_folder(options.folder, options.repo_id, private=private, revision=options.revision, **about)
        print(f"published: {page}")
