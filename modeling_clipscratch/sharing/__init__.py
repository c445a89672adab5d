"""A trained folder goes in; its card, a Hub repository, ONNX files or a model of another kind come out."""

from ..rooms import show

__all__ = show(
    __name__,
    card=["write_card"],
    push=["push_folder"],
    export_onnx=["export_onnx"],
    web_page=["write_page"],
    convert=["convert"],
)
