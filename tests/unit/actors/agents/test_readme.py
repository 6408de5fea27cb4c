"""The example of the README is short, and does what is said of it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from actors.agents.bench import AgentBench
from tests.waiting import until

README = Path(__file__).parents[4] / "actors" / "README.md"


def blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


def test_an_agent_is_written_in_under_twenty_lines() -> None:
    written = [line for line in blocks()[0].splitlines() if line.strip()]
    assert len(written) < 20


async def test_the_example_works() -> None:
    names: dict[str, Any] = {"__name__": "greeting"}
    exec(compile(blocks()[0], str(README), "exec"), names)
    greeter = names["Greeter"]
    async with AgentBench() as agents:
        await agents.start(greeter, name="greeter", word="Hi")
        assert await agents.ask("greet", "Ada", deadline_seconds=5) == "Hi, Ada"
        await agents.send("greet", "Bob", durable=True, key="bob-1")
        await until(lambda: agents.system.durable_on_the_way == 0)
        await agents.system.restart_agent("greeter")
        assert await agents.ask("greet", "Eve") == "Hi, Eve"

        async def is_saved() -> bool:
            # the two of before the restart and the one after, for a process that is killed
            return await agents.store.snapshot("greeter") == b"j3"

        await until(is_saved)


def test_the_second_example_can_be_read() -> None:
    compile(blocks()[1], str(README), "exec")
