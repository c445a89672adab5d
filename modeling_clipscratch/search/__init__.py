"""A model and a folder of pictures go in; an index of them, and the pictures nearest to a text or picture, come out."""

from ..rooms import show

__all__ = show(
    __name__,
    update=["Changes", "update_index"],
    store=["PictureIndex", "find_index", "open_index"],
    find=["Hit", "search"],
    sheet=["write_sheet"],
)
