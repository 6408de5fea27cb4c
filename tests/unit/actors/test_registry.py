"""The registry against a plain model, and the strategies that choose among its agents."""

from __future__ import annotations

import random
import re
import time

import pytest
import yaml
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from actors.agents.options import AgentOptions, Capability
from actors.agents.reports import AgentReport, Tally
from actors.agents.spec import AgentSpec
from actors.registry import HALF_LIFE_SECONDS, AgentStatus, Entry, Record, Registry
from actors.selection import STRATEGIES, Candidate, select
from ironcliw.errors import ConflictError, NotFoundError, RequestError, UnavailableError
from ironcliw.schemas.workflows import AgentForm


def entry(name: str, *capabilities: str) -> Entry:
    spec = AgentSpec(name, "m:C", {}, AgentOptions())
    found = {one: Capability(one, one) for one in capabilities}
    return Entry(spec, found, AgentStatus.STARTING, 0.0)


def running(*agents: tuple[str, ...]) -> Registry:
    registry = Registry()
    for name, *capabilities in agents:
        registry.add(entry(name, *capabilities))
        registry.placed(name, "host", "node")
    return registry


def names(registry: Registry, target: str) -> list[str]:
    return [one.agent for one in registry.look_up(target).candidates]


def test_agents_are_found_by_capability_and_by_name() -> None:
    registry = running(("a", "think"), ("b", "think", "talk"))
    assert names(registry, "think") == ["a", "b"]
    assert names(registry, "talk") == ["b"]
    assert names(registry, "a") == ["a"]
    assert registry.look_up("a").by_name
    assert not registry.look_up("think").by_name


def test_nobody_offers_it() -> None:
    with pytest.raises(NotFoundError, match=r"'fly' or offers it \(capabilities: think\)"):
        running(("a", "think")).look_up("fly")


def test_how_to_wait_is_told_as_a_step_says_it() -> None:
    with pytest.raises(NotFoundError, match="agents send --durable") as told:
        running(("a", "think")).look_up("fly")
    found = re.search("`agent: (.*?)`", told.value.message)
    assert found is not None
    form = AgentForm.model_validate(yaml.safe_load(found[1]))
    assert (form.capability, form.wait_seconds) == ("fly", 30)


def test_one_that_does_not_run_takes_nothing_and_says_why() -> None:
    registry = running(("a", "think"), ("b", "think"))
    registry.mark("a", AgentStatus.RESTARTING, "its process ended")
    assert names(registry, "think") == ["b"]
    registry.mark("b", AgentStatus.FAILED, "too often")
    with pytest.raises(UnavailableError, match=r"agent 'a' is restarting \(its process ended\)"):
        registry.look_up("think")
    registry.placed("a", "other", "node")
    assert names(registry, "think") == ["a"]


@pytest.mark.parametrize(
    ("new", "words"),
    [
        (("a",), "there is an agent 'a' already"),
        (("think",), "'think' would name both an agent and a capability"),
        (("c", "a"), "'a' would name both an agent and a capability"),
        (("c", "c"), "'c' would name both an agent and a capability"),
    ],
)
def test_names_are_clear(new: tuple[str, ...], words: str) -> None:
    registry = running(("a", "think"))
    with pytest.raises(ConflictError, match=words):
        registry.add(entry(*new))
    assert len(registry) == 1
    assert names(registry, "think") == ["a"]


def test_statistics_fade() -> None:
    record = Record()
    record.add(Tally(calls=10, failures=4, seconds=2.0), 0.0)
    assert record.average_seconds == pytest.approx(0.2)
    record.add(Tally(calls=1, failures=0, seconds=1.0), HALF_LIFE_SECONDS)
    assert record.successes == pytest.approx(6 / 2 + 1)
    assert record.failures == pytest.approx(2)
    assert record.average_seconds == pytest.approx(2 / 6)


def test_reports_show_in_the_next_lookup() -> None:
    registry = running(("a", "think"))
    assert registry.look_up("think").candidates[0].seconds is None
    tallies = {"think": Tally(calls=2, failures=1, seconds=0.5)}
    registry.report(AgentReport("a", waiting=3, running=1, tallies=tallies), 1.0)
    [found] = registry.look_up("think").candidates
    assert (found.load, found.seconds, found.successes, found.failures) == (4, 0.25, 1.0, 1.0)
    registry.report(AgentReport("nobody"), 1.0)  # one that was stopped meanwhile


def test_topics() -> None:
    registry = running(("a",), ("b",))
    registry.subscribe("news", "a", on=True)
    registry.subscribe("news", "b", on=True)
    registry.subscribe("news", "b", on=False)
    assert [one.agent for one in registry.subscribers("news")] == ["a"]
    with pytest.raises(NotFoundError, match="there is no agent 'c'; there are: a, b"):
        registry.subscribe("news", "c", on=True)


def test_a_lookup_among_a_thousand_takes_microseconds() -> None:
    registry = running(*((f"agent-{i}", "shared", f"own-{i % 50}") for i in range(1000)))
    targets = ["shared", *(f"own-{i}" for i in range(50))]
    # also when figures have just come, which is the worst
    for i in range(1000):
        registry.report(AgentReport(f"agent-{i}", running=1), 1.0)
    seconds = []
    for target in targets:
        started = time.thread_time()  # what others do meanwhile does not count
        assert registry.look_up(target).candidates
        seconds.append(time.thread_time() - started)
    assert sorted(seconds)[len(seconds) // 2] < 0.001


def choice(strategy: str, *candidates: Candidate, seed: int = 0) -> str:
    return select(candidates, strategy, lambda _: 0, random.Random(seed)).agent


def test_strategies() -> None:
    slow_idle = Candidate("slow-idle", "h", load=0, seconds=1.0, successes=9, failures=1)
    fast_busy = Candidate("fast-busy", "h", load=4, seconds=0.1, successes=1, failures=9)
    assert choice("least_loaded", slow_idle, fast_busy) == "slow-idle"
    assert choice("fastest", slow_idle, fast_busy) == "fast-busy"
    assert choice("most_successful", slow_idle, fast_busy) == "slow-idle"
    many_hands = Candidate("many-hands", "h", load=4, concurrency=8)
    assert choice("least_loaded", Candidate("one-hand", "h", load=1), many_hands) == "many-hands"


def test_what_this_process_has_sent_counts_too() -> None:
    candidates = [Candidate("a", "h"), Candidate("b", "h")]
    found = select(candidates, "least_loaded", {"a": 3, "b": 0}.__getitem__, random.Random(0))
    assert found.agent == "b"


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_equals_share(strategy: str) -> None:
    candidates = [Candidate(f"{i}", "h") for i in range(4)]
    chosen = {choice(strategy, *candidates, seed=seed) for seed in range(100)}
    assert chosen == {"0", "1", "2", "3"}


def test_the_learned_strategy_finds_the_better_one_and_leaves_the_worse() -> None:
    source, truth = random.Random(1), {"good": 0.9, "bad": 0.3}
    known = dict.fromkeys(truth, (0.0, 0.0))
    chosen = []
    for _ in range(300):
        candidates = [
            Candidate(a, "h", seconds=0.1, successes=s, failures=f) for a, (s, f) in known.items()
        ]
        agent = select(candidates, "learned", lambda _: 0, source).agent
        chosen.append(agent)
        good = source.random() < truth[agent]
        successes, failures = known[agent]
        known[agent] = (successes + good, failures + (not good))
    assert "bad" in chosen
    assert chosen[-100:].count("good") > 90


def test_no_such_strategy() -> None:
    with pytest.raises(RequestError, match="'best' is no strategy; give one of least_loaded"):
        choice("best", Candidate("a", "h"))


CAPABILITIES = st.sampled_from(["x", "y", "z"])


class RegistryMachine(RuleBasedStateMachine):
    """Any order of comings and goings: each lookup says what a search through all would."""

    def __init__(self) -> None:
        super().__init__()
        self.registry = Registry()
        self.known: dict[str, tuple[set[str], bool]] = {}
        self.number = 0

    @rule(capabilities=st.sets(CAPABILITIES))
    def add(self, capabilities: set[str]) -> None:
        self.number += 1
        name = f"agent-{self.number}"
        self.registry.add(entry(name, *capabilities))
        self.known[name] = (capabilities, False)

    @precondition(lambda self: self.known)
    @rule(data=st.data(), runs=st.booleans())
    def change(self, data: st.DataObject, runs: bool) -> None:
        name = data.draw(st.sampled_from(sorted(self.known)))
        if runs:
            self.registry.placed(name, "host", "node")
        else:
            self.registry.mark(name, AgentStatus.RESTARTING, None)
        self.known[name] = (self.known[name][0], runs)

    @precondition(lambda self: self.known)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.known)))
        self.registry.remove(name)
        del self.known[name]

    @invariant()
    def lookups_agree(self) -> None:
        for capability in "xyz":
            offering = [n for n, (caps, _) in self.known.items() if capability in caps]
            expected = [n for n in offering if self.known[n][1]]
            if expected:
                assert names(self.registry, capability) == expected
            else:
                kind = UnavailableError if offering else NotFoundError
                with pytest.raises(kind, match=capability):
                    self.registry.look_up(capability)


TestRegistryMachine = RegistryMachine.TestCase
