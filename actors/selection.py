"""Which of the agents that offer a capability gets a message. Pure, but for one's own random source.

| strategy | chooses |
|---|---|
| `least_loaded` | the one with the fewest messages a hand that wait or are worked on |
| `fastest` | the one whose answer is expected first: its average time, times the queue before it |
| `most_successful` | the one with the highest share of successes; the less is known, the nearer to 1 |
| `learned` | Thompson sampling: the expected time until a success, with the share of successes drawn from what is known, so that the less known are tried |
"""  # noqa: E501 - a table's row is one line

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ironcliw.errors import RequestError

UNKNOWN_SECONDS = 0.05
"""Taken for an agent that has not answered yet, so that it is tried."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """An agent that a message may go to.

    Attributes:
        agent: its name.
        host: name of the host that runs it.
        node: Ray's id of its machine.
        load: messages that wait or are worked on, when last told.
        concurrency: how many of the capability's messages it works on at once.
        seconds: average time of an answer; None: not known.
        successes: of the capability's messages lately; old ones count less.
        failures: as `successes`.
        idempotent: its capabilities that may be asked again where its process ended.
    """

    agent: str
    host: str
    node: str = ""
    load: int = 0
    concurrency: int = 1
    seconds: float | None = None
    successes: float = 0.0
    failures: float = 0.0
    idempotent: frozenset[str] = frozenset()


Outstanding = Callable[[str], int]
"""An agent's name -> messages that this process has sent it and that are not answered."""

Score = Callable[[Candidate, int, random.Random], float]
"""A candidate, its load now and a random source -> the lower, the better."""


def _queue(one: Candidate, load: int) -> float:
    return load / one.concurrency


def _expected_seconds(one: Candidate, load: int) -> float:
    seconds = UNKNOWN_SECONDS if one.seconds is None else one.seconds
    return seconds * (1 + _queue(one, load))


def _least_loaded(one: Candidate, load: int, _: random.Random) -> float:
    return _queue(one, load)


def _fastest(one: Candidate, load: int, _: random.Random) -> float:
    return _expected_seconds(one, load)


def _most_successful(one: Candidate, load: int, _: random.Random) -> float:
    return (one.failures + 0.001 * _queue(one, load)) / (one.successes + one.failures + 1)


def _learned(one: Candidate, load: int, source: random.Random) -> float:
    share = source.betavariate(one.successes + 1, one.failures + 1)
    return _expected_seconds(one, load) / max(share, 1e-3)


STRATEGIES: dict[str, Score] = {
    "least_loaded": _least_loaded,
    "fastest": _fastest,
    "most_successful": _most_successful,
    "learned": _learned,
}


def select(
    candidates: Sequence[Candidate],
    strategy: str,
    outstanding: Outstanding,
    source: random.Random,
) -> Candidate:
    """The candidate to send to; among equals one by chance.

    Args:
        candidates: one or more.
        strategy: a key of `STRATEGIES`.
        outstanding: what this process itself has sent and the figures do not show yet.
        source: of chance.

    Raises:
        RequestError: there is no such strategy.
    """
    score = STRATEGIES.get(strategy)
    if score is None:
        raise RequestError(
            f"{strategy!r} is no strategy; give one of {', '.join(STRATEGIES)}", param="strategy"
        )
    if len(candidates) == 1:
        return candidates[0]
    best, best_score, equals = candidates[0], float("inf"), 0
    for one in candidates:
        found = score(one, max(one.load, outstanding(one.agent)), source)
        if found < best_score:
            best, best_score, equals = one, found, 1
        elif found == best_score:
            equals += 1
            if source.random() * equals < 1:
                best = one
    return best
