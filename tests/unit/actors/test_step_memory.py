"""Memory of step processes, found by their titles."""

from __future__ import annotations

import subprocess
import sys

import pytest

from actors.step_memory import held_by_steps

PROGRAM = "held = b'x' * 60_000_000; print(len(held), flush=True); input()"


@pytest.mark.parametrize("title", ["ray::step:made_for_a_test", "ray::step:made_for_a_test()"])
def test_a_steps_process_is_found_by_its_title(title: str) -> None:
    assert "made_for_a_test" not in held_by_steps()
    words = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([title], executable="/bin/cat", text=True, **words) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write("it runs\n")
        process.stdin.flush()
        assert process.stdout.readline() == "it runs\n"
        assert "made_for_a_test" in held_by_steps()
        process.communicate(timeout=60)
    assert "made_for_a_test" not in held_by_steps()


def test_what_it_holds_for_itself_is_counted() -> None:
    words = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    title = ["ray::step:another", "-c", PROGRAM]
    with subprocess.Popen(title, executable=sys.executable, text=True, **words) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "60000000"
        # the program's text is a part of what is read as its title
        [held] = [gb for name, gb in held_by_steps().items() if name.startswith("another")]
        assert 0.06 <= held < 0.1
        process.communicate("\n", timeout=60)
