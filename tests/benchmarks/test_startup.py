"""Check that the start-up benchmark accounts for all of the time until the first step."""

import pytest

from benchmarks import startup


@pytest.mark.slow
def test_parts_of_the_first_step_add_up_to_it(tmp_path):
    tiny = ["--vision_num_layers", "1", "--text_num_layers", "1", "--max_steps", "1", "--eval_strategy", "no"]
    times = startup.seconds(startup.RUN, str(startup.DIGITS), *startup._quietly(str(tmp_path / "run")), *tiny)
    parts = {name.removeprefix("of it "): value for name, value in times.items() if name.startswith("of it ")}
    assert set(parts) == {"imports", "data", "towers", "first step", "rest"}  # both towers learn: nothing is cached
    assert sum(parts.values()) == pytest.approx(times["first step"]) and min(parts.values()) > 0
    assert times["end"] > times["first step"]
