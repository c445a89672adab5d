"""The class of errors that a user can correct."""


class ClipScratchError(ValueError):
    """An error that the user can correct: its message names the thing, the value, the rule and the remedy.

    Commands print the message alone. Errors of other classes keep their traceback.
    """
