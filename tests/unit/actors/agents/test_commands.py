"""`ironcliw agents`, with agents of the test's own process behind it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest

from actors import commands_agents
from actors.agent import Agent, capability
from actors.agents.bench import AgentBench
from actors.agents.client import Agents
from actors.agents.service import AgentService
from actors.control_link import ControlLink
from ironcliw.cli import main
from ironcliw.errors import AgentError
from tests.waiting import until


class Speaker(Agent):
    def __init__(self, word: str = "Hello", times: int = 1) -> None:
        self.words = " ".join([word] * times)

    @capability("speak", concurrency=2, idempotent=True)
    async def speak(self, name: Any) -> str:
        return f"{self.words}, {name}"

    @capability("fail")
    async def fail(self, _: Any) -> None:
        raise OSError("no voice")


class _Link(ControlLink):
    """To a control actor that is a bench."""

    def __init__(self, bench: AgentBench) -> None:
        super().__init__()
        self._service = AgentService(bench.system)

    async def call(self, part: str, method: str, *, repeatable: bool, **arguments: Any) -> Any:
        assert part == "agents" and method in AgentService.METHODS
        return await getattr(self._service, method)(**arguments)


async def _connect(_cls: type[Agents]) -> Agents:
    """One agent, and one dead letter."""
    bench = AgentBench()
    await bench.system.start()
    await bench.start(Speaker, name="speaker", options={"max_attempts": 1})
    await bench.send("fail", "x", durable=True)
    await until(lambda: bench.system.durable_on_the_way == 0)
    for _ in range(8):
        with contextlib.suppress(AgentError):
            await bench.ask("fail")
    return Agents(_Link(bench), bench.hosts.connect)


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
    assert "fail, speak" in table or "speak, fail" in table
    [found] = json.loads(run(capsys, "list", "--json"))
    assert (found["name"], found["status"], found["restarts"]) == ("speaker", "running", 0)


def test_show(capsys: pytest.CaptureFixture[str]) -> None:
    text = run(capsys, "show", "speaker")
    assert "tests.unit.actors.agents.test_commands:Speaker" in text
    assert "speak" in text


def test_start_with_arguments_and_options(capsys: pytest.CaptureFixture[str]) -> None:
    name = "tests.unit.actors.agents.test_commands:Speaker"
    words = ("start", name, "--name", "two", "-a", "word=Hi", "-a", "times=2", "-o", "mailbox=5")
    assert run(capsys, *words) == "two is started\n"
    assert run(capsys, "start", "speaker") == "speaker is started\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("start", "no_module:X"), "'no_module:X' cannot be loaded: No module named"),
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
