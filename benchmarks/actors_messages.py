"""Messages between two agents of one node, against calls between two bare Ray actors."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray

from actors.agent import Agents
from benchmarks.actors_cluster import bare, with_agents
from benchmarks.actors_work import BareCaller, BareEcho, CallerAgent, EchoAgent
from benchmarks.harness import Goal, Options, Row, Samples, interleave, percentile

logger = logging.getLogger(__name__)

THEME = "actors"
RATE = 1000
_WINDOW = 256
_SHARE, _PIPELINED, _P99_MS = 0.7, 10_000, 5.0


@dataclass(frozen=True, slots=True)
class Pair:
    """A sender and a receiver that are told what to do.

    Attributes:
        perform: A piece of work of `actors_work.perform` -> its number.
        late: Seconds by which each message was late, of the last paced work.
    """

    perform: Callable[[Sequence[Any]], float]
    late: Callable[[], list[float]]


def agent_pair(kind: str, *, isolated: bool) -> Pair:
    """Starts two agents, in processes of their own or in one."""
    sender, receiver = f"sender-{kind}", f"receiver-{kind}"
    options = {"isolated": isolated}

    async def begin(agents: Agents) -> None:
        await agents.start(EchoAgent, name=receiver, options=options)
        await agents.start(CallerAgent, name=sender, options=options)

    async def perform(agents: Agents, work: Sequence[Any]) -> float:
        body = {"to": receiver, "work": list(work)}
        done = await agents.ask(sender, body, capability="perform", deadline_seconds=300)
        return float(done)

    async def late(agents: Agents) -> list[float]:
        return list(await agents.ask(receiver, None, capability="late"))

    with_agents(begin)
    return Pair(
        lambda work: with_agents(lambda agents: perform(agents, work)), lambda: with_agents(late)
    )


def bare_pair() -> Pair:
    """Two Ray actors."""
    receiver = bare(BareEcho)
    sender = bare(BareCaller, receiver)
    return Pair(
        lambda work: float(ray.get(sender.perform.remote(work))),
        lambda: list(ray.get(receiver.late_ones.remote())),
    )


def message_rows(options: Options) -> list[Row]:
    """All rows about messages; a cluster runs."""
    rounds = options.rounds or (1 if options.quick else 5)
    calls = 500 if options.quick else 5_000
    many = 5_000 if options.quick else 50_000
    seconds = 3.0 if options.quick else 20.0
    pairs = {
        "own": agent_pair("own", isolated=True),
        "shared": agent_pair("shared", isolated=False),
        "bare": bare_pair(),
    }
    for pair in pairs.values():  # connections are made, code is loaded
        pair.perform(("in flight", 500, 10))
    logger.info("actors: messages one at a time")
    lone = _rates(pairs, ("one at a time", calls), calls, rounds)
    logger.info("actors: messages with %d in flight", _WINDOW)
    piped = _rates(pairs, ("in flight", many, _WINDOW), many, rounds)
    logger.info("actors: messages at %d/s", RATE)
    p99 = interleave(
        {name: _delay(pair, seconds) for name, pair in pairs.items()}, 1 if options.quick else 3
    )
    return [
        *_rate_rows("asked one at a time", lone, Goal(_SHARE, relative=True)),
        *_rate_rows(f"{_WINDOW} in flight", piped, Goal(_PIPELINED)),
        *_delay_rows(p99),
    ]


def _rates(
    pairs: Mapping[str, Pair], work: Sequence[Any], count: int, rounds: int
) -> dict[str, list[float]]:
    def measure(pair: Pair) -> Callable[[], float]:
        return lambda: count / pair.perform(work)

    return interleave({name: measure(pair) for name, pair in pairs.items()}, rounds)


def _delay(pair: Pair, seconds: float) -> Callable[[], float]:
    def measure() -> float:
        pair.late()
        sent = int(pair.perform(("paced", RATE, seconds)))
        late = pair.late()
        assert len(late) == sent, f"{len(late)} of {sent} messages arrived"
        return 1000 * percentile(late, 0.99)

    return measure


_WHERE = {"own": "a process each", "shared": "both in one process, as by default"}


def _rate_rows(name: str, rates: Mapping[str, list[float]], goal: Goal) -> list[Row]:
    peers = {"bare Ray actors": Samples.of(rates["bare"])}
    return [
        Row(THEME, f"{name}, {where}", "messages/s", Samples.of(rates[kind]), peers, goal)
        for kind, where in _WHERE.items()
    ]


def _delay_rows(delays: Mapping[str, list[float]]) -> list[Row]:
    peers = {"bare Ray actors": Samples.of(delays["bare"])}
    name, goal = f"delivery p99 at {RATE:,}/s", Goal(_P99_MS, at_most=True)
    return [
        Row(THEME, f"{name}, {where}", "ms", Samples.of(delays[kind]), peers, goal)
        for kind, where in _WHERE.items()
    ]
