"""A room and the names that it shows go in; a room that imports a name when it is first asked for comes out."""

import importlib
import sys
from types import ModuleType


class _Room(ModuleType):
    def __getattr__(self, name):
        module = vars(self).get("_shown", {}).get(name)
        if module is None:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        vars(self)[name] = getattr(importlib.import_module(f"{self.__name__}.{module}"), name)
        return vars(self)[name]

    def __setattr__(self, name, value):
        # Importing a file binds it here; where a shown name is the file's too, as rank_labels, the name goes before.
        if not (isinstance(value, ModuleType) and name in vars(self).get("_shown", {})):
            super().__setattr__(name, value)

    def __dir__(self):
        return sorted({*vars(self), *self._shown})


def show(room: str, **names: list[str]) -> list[str]:
    """Makes names of a room's files names of the room, without importing the files yet (as PEP 562 does).

    Importing a room, or one file of it, must not bring matplotlib, scikit-learn or faiss along.

    Args:
        room: its `__name__`.
        names: file -> what is public of it.
    Returns: the room's `__all__`.

    >>> import modeling_clipscratch.evaluation
    >>> "rank_labels" in modeling_clipscratch.evaluation.__all__
    True
    """
    module = sys.modules[room]
    vars(module)["_shown"] = {name: file for file, of_file in names.items() for name in of_file}
    module.__class__ = _Room
    return list(vars(module)["_shown"])
