"""The docstrings of what the rooms show go in; a page for each room comes out: python docs/build.py docs/html

A section here may begin on the line that names it ("Returns: (B, P)."); pdoc reads what stands below such a line.
"""

import dataclasses
import importlib
import inspect
import re
import sys
import warnings
from pathlib import Path

import pdoc
from pdoc import docstrings, render

PACKAGE = "modeling_clipscratch"
ROOMS = ("data", "training", "evaluation", "search", "sharing")
_IN_LINE = re.compile(r"^(Args|Returns|Raises|Sources?): (.+(?:\n[ \t]+\S.*)*)$", re.MULTILINE)


def with_sections_below(docstring: str) -> str:
    """
    >>> print(with_sections_below("Width.\\nReturns: (B, P),\\n    unit length.\\nRaises: ValueError if\\n    none."))
    Width.
    <BLANKLINE>
    Returns:
        (B, P),
        unit length.
    <BLANKLINE>
    Raises:
        ValueError: if
            none.
    """

    def below(match):
        name, text = match.groups()
        first, *others = text.split("\n")
        if name == "Raises":
            first = re.sub(r"^(\w+Error(?:, or \w+Error)?),? (?=if|at|before|for|see|where)", r"\1: ", first)
        further = "        " if name in ("Raises", "Args") else "    "
        return "\n".join([f"\n{name}:", f"    {first}", *(further + line.strip() for line in others)])

    # An empty line before each section, and none twice.
    parted = re.sub(
        r"(?<=[^\n])\n(?=(?:Args|Returns|Raises|Sources?|Attributes):\n)", "\n\n", _IN_LINE.sub(below, docstring)
    )
    return re.sub(r"\n{3,}", "\n\n", parted)


def use_own_words(shown: pdoc.doc.Class) -> None:
    """A recipe's field is told by its `--help`; no member of ours by the words of what it overrides."""
    fields = dataclasses.fields(shown.obj) if dataclasses.is_dataclass(shown.obj) else ()
    helps = {field.name: field.metadata.get("help", "") for field in fields}
    for member in shown.own_members:
        if isinstance(member, pdoc.doc.Variable):
            if not isinstance(vars(shown.obj).get(member.name), property):
                member.docstring = helps.get(member.name, "")
        elif not inspect.unwrap(getattr(member.obj, "__func__", member.obj)).__doc__:
            member.docstring = ""


def build(folder: Path) -> list[Path]:
    """Writes the pages. Returns: their paths. Raises: a warning of pdoc's, as an error."""
    names = [PACKAGE, *(f"{PACKAGE}.{room}" for room in ROOMS)]
    modules = {name: importlib.import_module(name) for name in names}
    for module in modules.values():
        for shown in module.__all__:  # pdoc looks at what is there already
            getattr(module, shown)
    pages = {name: pdoc.doc.Module(module) for name, module in modules.items()}
    for name, page in pages.items():  # of the files of a room only what it shows
        page.submodules = [pages[other] for other in names[1:]] if name == PACKAGE else []
        for shown in page.classes:
            use_own_words(shown)
    of_google, docstrings.google = docstrings.google, lambda text: of_google(with_sections_below(text))
    render.configure(docformat="google", show_source=False, footer_text="ClipScratch")
    written = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for name, page in pages.items():
                path = folder / (name.replace(".", "/") + ".html")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(render.html_module(page, pages), encoding="utf-8")
                written.append(path)
            for name, text in (("index.html", render.html_index(pages)), ("search.js", render.search_index(pages))):
                (folder / name).write_text(text, encoding="utf-8")
                written.append(folder / name)
    finally:
        docstrings.google = of_google
    return written


if __name__ == "__main__":
    print("\n".join(map(str, build(Path(sys.argv[1])))))
