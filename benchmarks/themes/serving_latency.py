"""Latency and rate over HTTP, ours and peers in alternation."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable, Mapping

from benchmarks.harness import Figure, Goal, NotRun, Row, Samples, interleave
from benchmarks.servers import Server, post
from benchmarks.wrk import Wrk, WrkResult

logger = logging.getLogger(__name__)

THEME = "serving"
# Seconds of a run by (connections, texts a request), full and quick. What is in flight at the end
# is not counted, so a run must be long against a slow peer's latency, or it would favour us.
SECONDS = {(1, 1): (5, 1), (16, 1): (10, 1), (64, 1): (10, 2), (4, 32): (15, 4)}
_WARM_UP_SECONDS = 1.0
OURS, STOCK, INFINITY, NOOP = "ironcliw", "stock Ray Serve", "infinity bf16", "no-op Ray Serve"


@dataclasses.dataclass(frozen=True, slots=True)
class Contestants:
    """The servers that are up.

    Attributes:
        ours: Our server.
        ray: Stock Ray Serve, and below `/noop` the no-op deployment.
        infinity: infinity-emb, or why it is not there.
    """

    ours: Server
    ray: Server
    infinity: Server | NotRun

    @property
    def peers(self) -> list[Server]:
        """Every server but ours."""
        both = (self.ray, self.infinity)
        return [server for server in both if isinstance(server, Server)]

    @property
    def noop_url(self) -> str:
        """Route of the no-op deployment."""
        return self.ray.url.replace("/v1/", "/noop/v1/")


@dataclasses.dataclass(frozen=True, slots=True)
class Measure:
    """One figure to take of every server.

    Attributes:
        name: Row name.
        unit: Its unit.
        connections: Requests at once.
        per_request: Texts in a request.
        read: The figure in wrk's result.
        goals: Goal by peer.
    """

    name: str
    unit: str
    connections: int
    per_request: int
    read: Callable[[WrkResult], float]
    goals: Mapping[str, Goal | None]


def _at_least(stock: float, infinity: float) -> dict[str, Goal | None]:
    return {STOCK: Goal(stock, relative=True), INFINITY: Goal(infinity, relative=True)}


_LOWER: dict[str, Goal | None] = {
    STOCK: Goal(1 / 5, at_most=True, relative=True),
    INFINITY: Goal(1 / 4, at_most=True, relative=True),
}
MEASURES = (
    Measure("HTTP c=1 p50", "ms", 1, 1, lambda result: result.p50_ms, _LOWER),
    Measure(
        "HTTP c=1 p99", "ms", 1, 1, lambda result: result.p99_ms, {STOCK: None, INFINITY: None}
    ),
    Measure("HTTP c=16", "texts/s", 16, 1, lambda result: result.rate, _at_least(4.0, 3.5)),
    Measure("HTTP c=64", "texts/s", 64, 1, lambda result: result.rate, _at_least(4.0, 1.6)),
    Measure(
        "HTTP 4 x 32 texts", "texts/s", 4, 32, lambda result: 32 * result.rate, _at_least(4.0, 1.5)
    ),
)


def http_rows(contestants: Contestants, wrk: Wrk, rounds: int, quick: bool) -> list[Row]:
    """One row a measure and peer; measures of the same load share one run."""
    urls = {OURS: contestants.ours.url, STOCK: contestants.ray.url}
    if isinstance(contestants.infinity, Server):
        urls[INFINITY] = contestants.infinity.url
    missing = {INFINITY: contestants.infinity}
    taken: dict[tuple[int, int], dict[str, list[WrkResult]]] = {}
    for load in dict.fromkeys((item.connections, item.per_request) for item in MEASURES):
        logger.info("HTTP, %d connections, %d texts a request", *load)
        taken[load] = _alternate(wrk, urls, load, rounds, quick)
    absent = {name: why for name, why in missing.items() if isinstance(why, NotRun)}
    return [
        row
        for measure in MEASURES
        for row in measure_rows(measure, taken[measure.connections, measure.per_request], absent)
    ]


def measure_rows(
    measure: Measure, results: Mapping[str, list[WrkResult]], absent: Mapping[str, NotRun]
) -> list[Row]:
    """The rows of one measure: ours against each peer."""
    figures: dict[str, Figure] = {
        name: Samples.of(measure.read(result) for result in taken)
        for name, taken in results.items()
    }
    figures.update(absent)
    return [
        Row(
            THEME,
            f"{measure.name} against {peer}",
            measure.unit,
            figures[OURS],
            {peer: figures[peer]},
            goal,
        )
        for peer, goal in measure.goals.items()
    ]


def gateway_rows(contestants: Contestants, wrk: Wrk, rounds: int, quick: bool) -> list[Row]:
    """Our ingress answering an embedding that it has kept, beside a no-op deployment."""
    goals = {1: Goal(0.6, at_most=True), 16: Goal(2500.0)}
    names = {1: ("gateway, cached answer, c=1 p50", "ms"), 16: ("gateway, c=16", "requests/s")}
    urls = {OURS: contestants.ours.url, NOOP: contestants.noop_url}
    rows = []
    for connections, goal in goals.items():
        logger.info("gateway, %d connections", connections)
        load = (connections, 1)
        results = _alternate(wrk, urls, load, rounds, quick, repeat=True)
        figures: dict[str, Figure] = {
            name: Samples.of(result.p50_ms if connections == 1 else result.rate for result in taken)
            for name, taken in results.items()
        }
        ours = figures[OURS] if _is_cached(contestants.ours) else NotRun("no answer was cached")
        name, unit = names[connections]
        rows.append(Row(THEME, name, unit, ours, {NOOP: figures[NOOP]}, goal))
    return rows


def _is_cached(server: Server) -> bool:
    """Whether the second of two equal requests is answered from the cache, as it must be here."""
    text = ["the same text twice"]
    post(server.url, text)
    return post(server.url, text)[1].get("x-ironcliw-cache") == "hit"


def _alternate(
    wrk: Wrk,
    urls: Mapping[str, str],
    load: tuple[int, int],
    rounds: int,
    quick: bool,
    repeat: bool = False,
) -> dict[str, list[WrkResult]]:
    """One kind of load on each server in turn, after a warm-up that is not counted."""
    connections, per_request = load

    def run(url: str, seconds: float) -> WrkResult:
        return wrk.run(
            url, connections=connections, seconds=seconds, per_request=per_request, repeat=repeat
        )

    for url in urls.values():
        run(url, _WARM_UP_SECONDS if per_request == 1 else SECONDS[load][1])
    seconds = SECONDS[load][1 if quick else 0]
    runs = {name: functools.partial(run, url, seconds) for name, url in urls.items()}
    return interleave(runs, rounds)
