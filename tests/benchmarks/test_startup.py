"""The programs that the start-up benchmark times go in; what they say of themselves comes out."""

import pytest

from benchmarks import startup


def test_parts_of_the_first_step_are_all_of_it(tmp_path):
    tiny = ["--vision_num_layers", "1", "--text_num_layers", "1", "--max_steps", "1", "--eval_strategy", "no"]
    told = startup.seconds(startup.RUN, str(startup.DIGITS), *startup._quietly(str(tmp_path / "run")), *tiny)
    parts = {name.removeprefix("of it "): value for name, value in told.items() if name.startswith("of it ")}
    assert set(parts) == {"imports", "data", "towers", "first step", "the rest"}  # both towers learn: nothing is cached
    assert sum(parts.values()) == pytest.approx(told["first step"]) and min(parts.values()) > 0
    assert told["end"] > told["first step"]
