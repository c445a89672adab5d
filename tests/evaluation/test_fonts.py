"""Texts go in; the fonts that they are set in, and what is said where there is none, are checked."""

import logging

from matplotlib.font_manager import findfont

from modeling_clipscratch.evaluation.plots import fonts
from modeling_clipscratch.evaluation.plots.figures import new_figure, save_figure, title


def lacked(family):
    """A character of a font that comes with matplotlib, and not of matplotlib's usual one."""
    return chr(min(fonts._characters(findfont(family)) - fonts._characters(findfont("DejaVu Sans"))))


def test_text_takes_a_font_that_has_its_characters_and_others_stay_as_they_are(tmp_path, caplog, recwarn):
    figure = new_figure(2, 2)
    axes = figure.subplots()
    strange = lacked("STIXGeneral")
    title(figure, f"cats {strange}")
    axes.set_title("cats")
    before = axes.title.get_fontfamily()
    save_figure(figure, tmp_path / "a.png")
    first, second = figure._suptitle.get_fontfamily()
    assert first == "DejaVu Sans" and ord(strange) in fonts._characters(findfont(second))
    assert axes.title.get_fontfamily() == before
    assert not [record for record in caplog.records if record.name == fonts.__name__]
    assert not [warning for warning in recwarn if "Glyph" in str(warning.message)]


def test_characters_that_no_font_has_are_named_once(tmp_path, caplog, recwarn):
    nowhere = chr(0x10FFFD)  # of a private area
    with caplog.at_level(logging.WARNING):
        for name in ("a.png", "b.png"):
            figure = new_figure(2, 2)
            title(figure, f"cats {nowhere}")
            save_figure(figure, tmp_path / name)
    said = [record.getMessage() for record in caplog.records if record.name == fonts.__name__]
    assert len(said) == 1 and f"no installed font has {nowhere}" in said[0]
    assert not [warning for warning in recwarn if "Glyph" in str(warning.message)]


def test_a_font_that_is_gone_since_matplotlib_made_its_list_stops_nothing():
    assert fonts._characters("nowhere.ttf") == frozenset()
