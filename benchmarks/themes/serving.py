"""Theme `serving`: our HTTP service against stock Ray Serve, a no-op deployment and infinity.

Order: what concerns ours alone (start, memory, idle CPU, overload) is taken while nothing else
runs. Then the peers start, all stay up and idle, and each figure alternates between them round by
round: stopping and starting around each measurement would take longer than the measurements and
leave caches cold. The idle servers burn some CPU (two Ray heads about a tenth of a core each),
the same for whoever is measured.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from benchmarks import processes
from benchmarks.harness import Figure, Goal, NotRun, Options, Row, Samples, ThemeResult
from benchmarks.peers import infinity_peer
from benchmarks.servers import MODEL, Server, start_infinity, start_ours, start_ray_peers
from benchmarks.texts import short_texts
from benchmarks.themes.batching_tax import batching_tax
from benchmarks.themes.serving_latency import SECONDS, Contestants, gateway_rows, http_rows
from benchmarks.themes.serving_overload import overload_rows
from benchmarks.wrk import Wrk

logger = logging.getLogger(__name__)

THEME = "serving"
STOCK = "stock Ray Serve"
_TEXTS = 4000
START_GOAL, STOP_GOAL = Goal(15.0, at_most=True), Goal(6.0, at_most=True)
MEMORY_GOAL, IDLE_GOAL = Goal(1.3, at_most=True), Goal(7.0, at_most=True)


def run(options: Options) -> ThemeResult:
    """Start the servers, measure, stop them.

    Raises:
        BenchmarkError: our server does not start, or a request fails.
    """
    rounds = options.rounds or (1 if options.quick else 5)
    texts = short_texts(options.data, _TEXTS, options.seed)
    rows: list[Row] = []
    starts: list[float] = []
    stops: list[float] = []
    with ExitStack() as stack:
        # short, since Ray puts socket paths below it
        work = Path(tempfile.mkdtemp(prefix="ib-", dir="/tmp"))
        stack.callback(shutil.rmtree, work, ignore_errors=True)
        wrk = Wrk(texts, MODEL, work)
        plain = NotRun("taken in the full run only")
        footprint: tuple[Figure, Figure] = (plain, plain)
        if not options.quick:
            footprint = _peer_footprint(options, work)
            _cycles(options, work, 2, starts, stops)
        ours = stack.enter_context(start_ours(options, _folder(work, "ours")))
        starts.append(ours.wait_ready())
        logger.info("our server is up")
        rows += _footprint_rows(ours, options, footprint)
        rows += overload_rows(ours.url, texts, options)
        contestants = _start_peers(stack, ours, options, work)
        rows += http_rows(contestants, wrk, rounds, options.quick)
        rows += gateway_rows(contestants, wrk, rounds, options.quick)
        # the last in, first out: peers leave before our stop is timed
        for peer in contestants.peers:
            peer.stop()
        stops.append(ours.stop())
    rows += batching_tax(rounds)
    rows += [
        Row(THEME, "installed start to first answer", "s", Samples.of(starts), goal=START_GOAL),
        Row(THEME, "stop to last process gone", "s", Samples.of(stops), goal=STOP_GOAL),
    ]
    return ThemeResult(rows, _remarks(rounds, options.quick))


def _folder(work: Path, name: str) -> Path:
    return Path(tempfile.mkdtemp(prefix=name[:1], dir=work))


def _cycles(
    options: Options, work: Path, count: int, starts: list[float], stops: list[float]
) -> None:
    for _ in range(count):
        with start_ours(options, _folder(work, "ours")) as server:
            starts.append(server.wait_ready())
            stops.append(server.stop())


def _peer_footprint(options: Options, work: Path) -> tuple[Figure, Figure]:
    """Memory (GB) and idle CPU (%) of the Ray Serve peers while nothing else runs."""
    with start_ray_peers(options, _folder(work, "peers")) as server:
        server.wait_ready()
        return _footprint(server, options)


def _footprint(server: Server, options: Options) -> tuple[Samples, Samples]:
    # what a start still has to tidy up after the first answer is not idling
    time.sleep(2.0 if options.quick else 15.0)
    idle = processes.idle_cpu(server.tag, 3.0 if options.quick else 30.0)
    memory = server.memory_bytes() / 1e9
    return Samples.of([memory]), Samples.of([100 * idle])


def _footprint_rows(ours: Server, options: Options, peer: tuple[Figure, Figure]) -> list[Row]:
    memory, idle = _footprint(ours, options)
    return [
        Row(THEME, "memory, model loaded, idle", "GB PSS", memory, {STOCK: peer[0]}, MEMORY_GOAL),
        Row(THEME, "idle CPU", "% of a core", idle, {STOCK: peer[1]}, IDLE_GOAL),
    ]


def _start_peers(stack: ExitStack, ours: Server, options: Options, work: Path) -> Contestants:
    logger.info("starting the peers")
    ray_peers = stack.enter_context(start_ray_peers(options, _folder(work, "peers")))
    missing = infinity_peer.missing()
    infinity: Server | NotRun
    if missing is not None:
        infinity = missing
    else:
        infinity = stack.enter_context(start_infinity(options, _folder(work, "infinity")))
    for server in (ray_peers, infinity):
        if isinstance(server, Server):
            server.wait_ready()
    return Contestants(ours, ray_peers, infinity)


def _remarks(rounds: int, quick: bool) -> list[str]:
    lengths = [pair[1 if quick else 0] for pair in SECONDS.values()]
    load = (
        f"HTTP figures: wrk on the same cores, {min(lengths)} to {max(lengths)} s a figure, "
        f"{rounds} rounds in alternation; every text is new to the server, except for the "
        "gateway figures."
    )
    peers = (
        "Ray Serve peers run through Serve's Python proxy with its default settings; both share "
        "one Ray. Peers have as many compute threads as there are cores."
    )
    memory = (
        "Memory and idle CPU are of all processes, dashboard included, with nothing else running."
    )
    overload = (
        "Overload: open loop, Poisson arrivals, latency from the moment a request was due; 32 "
        "texts a request, answers in base64 as the openai client asks for them."
    )
    return [load, peers, memory, overload]
