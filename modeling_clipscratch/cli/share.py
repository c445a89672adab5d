"""`clipscratch share`: publish a trained folder on the Hub."""

import argparse

from ..sharing.push_model import push_folder


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="clipscratch share", description="Share a trained model.")
    commands = parser.add_subparsers(required=True, title="commands (each has a --help)")
    about = "Publish a trained folder on the Hub in one commit, with its report, which shows images of the dataset."
    push = commands.add_parser("push", help=about, description=about)
    push.add_argument("folder", help="folder that training wrote")
    push.add_argument("repo_id", help="you/name; created if it does not exist")
    push.add_argument("--private", choices=["true", "false"], help="who may see it, if it is created now")
    push.add_argument("--revision", help="branch, created if it does not exist (default: main)")
    push.add_argument("--license", help="the Hub's name of the model's licence, such as apache-2.0")
    push.add_argument("--language", help="ISO 639-1 code of the language that the model reads, such as en")
    options = vars(parser.parse_args(arguments))
    private = {"true": True, "false": False, None: None}[options.pop("private")]
    print(f"published: {push_folder(options.pop('folder'), options.pop('repo_id'), private=private, **options)}")
