"""Agents on a head that `ironcliw up` has started, through the command line."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import ROOT, Head

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(300)]

EXAMPLE = (ROOT / "actors" / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working directory with the README's agent in it."""
    code = EXAMPLE.partition("```python\n")[2].partition("```")[0]
    (tmp_path / "greeting.py").write_text(code, encoding="utf-8")
    return tmp_path


@pytest.fixture
def greeter(head: Head, folder: Path) -> Iterator[str]:
    words = ("--name", "greeter", "-a", "word=Hi", "--working-dir", str(folder))
    started = head.run("agents", "start", "greeting:Greeter", *words)
    assert started.returncode == 0, started.stderr
    yield "greeter"
    stopped = head.run("agents", "stop", "greeter")
    assert stopped.returncode == 0, stopped.stderr


def shown(head: Head, name: str) -> Any:
    return json.loads(head.run("agents", "show", name, "--json").stdout)


def test_the_readmes_agent_lives_beside_the_commands(head: Head, greeter: str) -> None:
    # each command is a connection of its own, and the module went along with the first
    asked = head.run("agents", "send", "greet", "Ada", "--ask")
    assert asked.stdout == '"Hi, Ada"\n', asked.stderr
    sent = head.run("agents", "send", "greet", "Bob", "--durable", "--key", "bob-1")
    assert sent.stdout == "sent, and kept\n", sent.stderr
    deadline = time.monotonic() + 30
    while shown(head, greeter)["capabilities"]["greet"]["recent_successes"] < 1.9:
        assert time.monotonic() < deadline, "the durable message was not dealt with"
        time.sleep(0.2)
    assert "greeter" in head.run("agents", "list").stdout


def test_bad_requests_say_why(head: Head, greeter: str) -> None:
    for words, message, code in (
        (("send", "sing", "--ask"), "no agent is named 'sing' or offers it", 4),
        (("show", "nobody"), "there is no agent 'nobody'", 4),
        (("start", "nowhere:Nobody"), "'nowhere:Nobody' cannot be loaded", 4),
        (("replay", "nothing"), "there is no dead letter 'nothing'", 4),
    ):
        failed = head.run("agents", *words)
        assert message in failed.stderr
        assert failed.returncode == code
