"""What is exported and told: open workflows as they are, ended ones as they were last counted."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import pytest

from actors import metrics
from actors.agents.figures import Figures, Standing
from actors.agents.reports import BOUNDS, AgentReport, HostReport, Tally
from actors.exporter import Exporter
from actors.metrics import AgentMetrics
from ironcliw.errors import StoreError


class Store:
    """Counts of workflows, then of messages."""

    def __init__(self) -> None:
        self.answers: list[Mapping[str, int]] = []

    async def read(self, work: Callable[[Any], Any]) -> Any:
        if not self.answers:
            raise StoreError("the store is away")
        return self.answers.pop(0)


class Workflows:
    running, queued = 2, 5

    def open_by_status(self) -> Mapping[str, int]:
        return {"running": 1, "uncertain": 3}


class Agents:
    def __init__(self) -> None:
        self.figures = Figures()

    def standing(self) -> Standing:
        waiting = {"critical": 0, "high": 1, "normal": 2, "low": 0}
        return Standing({"running": 4, "failed": 0}, waiting, 7, {"translate": 2})


class Told:
    """Whatever it is told, by the name of the call."""

    def __init__(self) -> None:
        self.calls: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Callable[[Any], None]:
        return lambda value: self.calls.__setitem__(name, value)


async def test_open_and_ended_are_told_together() -> None:
    store, rounds = Store(), Counter[str]()
    told: Any = Told()
    exporter = Exporter(store, Workflows(), Agents(), told, told, lambda: rounds.update(["also"]))
    store.answers = [{"running": 9, "completed": 8, "failed": 1}, {"queued": 2, "dead": 6}]
    await exporter.count()
    exporter.export()
    counted = {"running": 1, "uncertain": 3, "completed": 8, "failed": 1}
    assert told.calls["on_workflows"] == counted
    assert (told.calls["on_dead_letters"], rounds["also"]) == (6, 1)
    assert exporter.status() == {
        "workflows": counted,
        "steps": {"running": 2, "queued": 5},
        "agents": {"running": 4},
        "messages": {"waiting": 3, "durable": 7, "dead_letters": 6},
        "open_circuits": ["translate"],
    }


async def test_a_store_that_is_away_is_no_reason_to_tell_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    told: Any = Told()
    exporter = Exporter(Store(), Workflows(), Agents(), told, told)
    await exporter.count()
    exporter.export()
    assert "not counted for now: the store is away" in caplog.text
    assert told.calls["on_workflows"] == {"running": 1, "uncertain": 3}
    assert "on_dead_letters" not in told.calls, "what is not known is not told as none"


class Series:
    """A metric of Ray's that keeps what it is given."""

    made: ClassVar[dict[str, Series]] = {}

    def __init__(self, name: str, *_: Any) -> None:
        self.values: Counter[tuple[str, ...]] = Counter()
        self.seen: list[float] = []
        self.made[name] = self

    def inc(self, value: float, tags: Mapping[str, str] = {}) -> None:
        assert value > 0, "Ray refuses others"
        self.values[tuple(tags.values())] += int(value)

    def set(self, value: float, tags: Mapping[str, str] = {}) -> None:
        self.values[tuple(tags.values())] = int(value)

    def observe(self, value: float, tags: Mapping[str, str]) -> None:
        self.seen.append(value)


@pytest.fixture
def series(monkeypatch: pytest.MonkeyPatch) -> dict[str, Series]:
    Series.made = {}
    for kind in ("Counter", "Gauge", "Histogram"):
        monkeypatch.setattr(metrics, kind, Series)
    return Series.made


def tally(*seconds: float, **kinds: bool) -> Tally:
    made = Tally()
    for one in seconds:
        made.add(one, **{"failed": False, "late": False, "rejected": False, **kinds})
    return made


def host(*agents: AgentReport, circuits: tuple[str, ...] = ()) -> HostReport:
    return HostReport("h", "n", 1, 1, agents=list(agents), open_circuits=circuits)


def test_counts_become_series(series: dict[str, Series]) -> None:
    exported, figures = AgentMetrics(), Figures()
    figures.add(host(AgentReport("a", tallies={"think": tally(0.0005, 0.3, 100.0)}, full=2)))
    failed = tally(0.01, failed=True)
    figures.add(host(AgentReport("b", tallies={"think": failed, "topic x": tally(0.1)})))
    figures.restarts["lost"] += 2
    for _ in range(2):  # the second time there is nothing new
        exported.on_figures(figures)
    messages = series["ironcliw_agent_messages_total"].values
    assert messages == {
        ("", "full"): 2,
        ("think", "ok"): 3,
        ("think", "failed"): 1,
        ("topic", "ok"): 1,
    }
    assert series["ironcliw_agent_restarts_total"].values == {("lost",): 2}
    seen = series["ironcliw_agent_message_seconds"].seen
    assert sorted(seen) == pytest.approx([0.0005, 0.0125, 0.06, 0.3, 2 * BOUNDS[-1]])
    figures.dead_letters = figures.unheard = 1
    figures.add(host(AgentReport("a", tallies={"think": tally(0.3)})))
    exported.on_figures(figures)
    assert messages["think", "ok"] == 4
    assert len(seen) == 6
    assert series["ironcliw_agent_dead_letters_total"].values == {(): 1}


def test_a_circuit_that_has_closed_is_told_as_such(series: dict[str, Series]) -> None:
    exported, figures = AgentMetrics(), Figures()
    for circuits, own, count in ((("translate",), ("translate",), 2), ((), (), 0)):
        figures.add(host(circuits=circuits))
        exported.on_standing(Standing.of([], 0, figures.open_circuits(own)))
        assert series["ironcliw_agent_open_circuits"].values == {("translate",): count}
    figures.add(host(circuits=("translate",)))
    figures.forget("h")
    assert not figures.open_circuits()


async def test_the_store_is_counted_as_often_as_that_is_cheap(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("actors.exporter.EXPORT_SECONDS", 0.01)
    counted = Counter[str]()

    async def rounds(seconds: float) -> Counter[str]:
        class Slow(Store):
            async def read(self, work: Callable[[Any], Any]) -> Any:
                counted["reads"] += 1
                await asyncio.sleep(seconds)
                return {}

        told: Any = Told()
        exporter = Exporter(
            Slow(), Workflows(), Agents(), told, told, lambda: counted.update(["exports"])
        )
        counted.clear()
        running = asyncio.create_task(exporter.run())
        while counted["exports"] < 5:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        running.cancel()
        return counted

    assert (await rounds(0.0))["reads"] > 2
    assert (await rounds(0.05))["reads"] == 2, "of workflows and of messages, once"
