"""The class of errors that a user can correct. It is defined in `hub/`, since it travels with saved models."""

from ..hub.errors_clipscratch import ClipScratchError

__all__ = ["ClipScratchError"]
