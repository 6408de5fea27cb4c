"""`ironcliw agents`, with agents of the test's own process behind it."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator
from typing import Any

import pytest

from actors import commands_agents
from actors.agent import Agent, capability
from actors.agents.bench import AgentBench
from actors.agents.client import Agents
from actors.agents.service import AgentService
from ironcliw.cli import main
from ironcliw.console import EXIT_BAD_REQUEST
from ironcliw.errors import AgentError
from tests.unit.actors.agents.links import BenchLink
from tests.waiting import until


class Speaker(Agent):
    def __init__(self, word: str = "Hello", times: int = 1) -> None:
        self.words = " ".join([word] * times)

    @capability("speak", concurrency=2, idempotent=True)
    async def speak(self, name: Any) -> str:
        return f"{self.words}, {name}"

    @capability("pair")
    async def pair(self, what: Any) -> Any:
        return {"bytes": b"x", "keys": {1: "x"}, "set": {1}}.get(what, (what, None))

    @capability("fail")
    async def fail(self, _: Any) -> None:
        raise OSError("no voice")


async def _connect(_cls: type[Agents]) -> Agents:
    """One agent, one dead letter, and one message that waits for another agent."""
    bench = AgentBench()
    await bench.system.start()
    await bench.start(Speaker, name="speaker", options={"max_attempts": 1})
    await bench.send("fail", "x", durable=True)
    await until(lambda: bench.system.durable_on_the_way == 0)
    await bench.send("later", 1, durable=True, key="used")
    for _ in range(8):
        with contextlib.suppress(AgentError):
            await bench.ask("fail")
    return Agents(BenchLink(bench), bench.hosts.connect)


@pytest.fixture(autouse=True)
def connected(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(Agents, "connect", classmethod(_connect))
    monkeypatch.setattr(Agents, "close", lambda self: None)  # the loop ends with the command
    monkeypatch.setattr("actors.agents.client._environment", dict)
    with monkeypatch.context() as patch:
        patch.setattr(commands_agents, "connection", lambda *_: contextlib.nullcontext())
        yield


def run(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with contextlib.suppress(SystemExit):
        main(["agents", *words])
    return capsys.readouterr().out


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    table = run(capsys, "list")
    assert "speaker" in table
    assert "running" in table
    assert "fail, pair, speak" in table
    [found] = json.loads(run(capsys, "list", "--json"))
    assert (found["name"], found["status"], found["restarts"]) == ("speaker", "running", 0)


def test_show(capsys: pytest.CaptureFixture[str]) -> None:
    text = run(capsys, "show", "speaker")
    assert "tests.unit.actors.agents.test_commands:Speaker" in text
    assert re.search(r"^registered_at +20\d\d-\d\d-\d\d \d\d:", text, re.MULTILINE)
    assert re.search(rf"^pid +{os.getpid()} *$", text, re.MULTILINE)
    assert re.search(r"^last_restart +- *$", text, re.MULTILINE)
    assert re.search(r"^fail +1 +no +\S+ +0 +\d *$", text, re.MULTILINE)


def test_show_tells_why_it_was_started_again(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    describe = AgentService.describe

    async def restarted(service: AgentService, name: str) -> dict[str, Any]:
        found = await describe(service, name)
        last = {"cause": "lost", "reason": "its machine is gone", "at": 0.0}
        return {**found, "last_restart": last}

    monkeypatch.setattr(AgentService, "describe", restarted)
    text = run(capsys, "show", "speaker")
    line = "last_restart +1970-01-01 00:00:00.00:00, lost: its machine is gone"
    assert re.search(rf"^{line} *$", text, re.MULTILINE)


def test_start_with_arguments_and_options(capsys: pytest.CaptureFixture[str]) -> None:
    name = "tests.unit.actors.agents.test_commands:Speaker"
    words = ("start", name, "--name", "two", "-a", "word=Hi", "-a", "times=2", "-o", "mailbox=5")
    assert run(capsys, *words) == "two is started\n"
    assert run(capsys, "start", "speaker") == "speaker is started\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("start", "no_module:X"), "No module named 'no_module'; if the module stands in a"),
        (("send", "pair", "set", "--ask"), "the answer of 'pair', of the type 'set', cannot be"),
        (("send", "pair", "keys", "--ask"), "the key 1 is no text; return texts, finite numbers"),
        (("send", "pair", "bytes", "--ask", "--json"), "`await agents.ask(...)` gives the answer"),
        (("start", "json:loads"), "'json:loads' is no class of agents"),
        (("start", "a:B", "-a", "word"), "--argument 'word': write NAME=VALUE"),
        (("start", "speaker", "--name", "x"), "'speaker' names an agent that is there"),
        (
            ("send", "speak", "--ask", "--durable"),
            "--ask waits for an answer, and --durable brings",
        ),
        (("send", "speak", "--key", "k"), "--key is for durable messages; give --durable too"),
        (("send", "speak", "--priority", "soon"), "'soon' is no priority"),
        (("send", "sing"), "no agent is named 'sing' or offers it"),
        (("replay", "nothing"), "there is no dead letter 'nothing'"),
        (("stop", "nobody"), "there is no agent 'nobody'; there are: speaker"),
        (("show", "nobody"), "there is no agent 'nobody'; there are: speaker"),
    ],
)
def test_errors(capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["agents", *words])
    assert caught.value.code != 0
    assert message in capsys.readouterr().err


def test_send(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "send", "speak", "Ada") == "sent\n"
    assert run(capsys, "send", "speak", "Ada", "--durable", "--key", "k") == "sent, and kept\n"
    assert run(capsys, "send", "speak", "Ada", "--ask") == '"Hello, Ada"\n'
    asked = (
        "send",
        "speaker",
        "[1]",
        "--capability",
        "speak",
        "--ask",
        "--deadline",
        "5",
        "--json",
    )
    assert json.loads(run(capsys, *asked)) == {"answer": "Hello, [1]"}


def test_an_answer_that_is_no_json_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["agents", "send", "pair", "set", "--ask"])
    assert caught.value.code == EXIT_BAD_REQUEST
    assert capsys.readouterr().out == ""
    assert run(capsys, "send", "pair", "x", "--ask") == '[\n  "x",\n  null\n]\n'


def test_a_key_that_was_used_sends_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("send", "later", "1", "--durable", "--key")
    assert run(capsys, *words, "new") == "sent, and kept\n"
    told = "not sent again: 'later' was sent a message of key 'used' before\n"
    assert run(capsys, *words, "used") == told
    assert json.loads(run(capsys, *words, "used", "--json")) == {"answer": None, "new": False}


def test_stop(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "stop", "speaker") == "speaker is stopped\n"


def test_breakers(capsys: pytest.CaptureFixture[str]) -> None:
    [found] = json.loads(run(capsys, "breakers", "--json"))
    assert (found["capability"], found["process"], found["state"]) == ("fail", "control", "open")
    assert (found["failures"], 0 < found["seconds"] <= 2) == (8, True)
    assert "not asked by" in run(capsys, "breakers")


def test_dead_letters(capsys: pytest.CaptureFixture[str]) -> None:
    [letter] = json.loads(run(capsys, "dead-letters", "--json"))
    assert (letter["recipient"], letter["attempts"]) == ("fail", 1)
    assert "raised OSError: no voice" in letter["error"]
    assert "no voice" in run(capsys, "dead-letters", "--recipient", "fail")
    assert json.loads(run(capsys, "dead-letters", "--recipient", "other", "--json")) == []
