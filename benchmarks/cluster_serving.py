"""The service under steady load while the machine that answers is taken away: theme `cluster`.

A real head (`ironcliw up`) on the test bed of `cluster.testing`, with a model that is placed in the
cloud. Ten requests a second are sent, whether or not the service keeps up, each with a text of its
own, so that no answer comes from a cache; a client waits ten seconds. Ten seconds into the load the
machine goes: with the notice that it was promised (30 s), without one, or by a cut cable. All
machines are namespaces of this one, with cables of their own; without the rights for that nothing
is measured.

    python -m benchmarks.cluster_serving [--seconds 60] [--rate 10]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import sys
import tempfile
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import BenchmarkError, Figure, Goal, NotRun, Options, Row, Samples
from benchmarks.load import LoadResult, offer, poisson_schedule
from cluster.testing.faults import CutLink, Fault, Preempt
from cluster.testing.network import Network, why_unavailable
from cluster.testing.served import Served, served
from ironcliw.errors import IroncliwError

THEME = "cluster"
MODEL = "all-MiniLM-L6-v2"
P99_GOAL_SECONDS = 5.0
_CLIENT_SECONDS = 10.0
_FAULT_AFTER_SECONDS = 10.0
_CUT_SECONDS = 60.0
_AWAKE_SECONDS = 420.0
_SEED = 5
# for texts that were never asked for: an answer from the cache would say nothing
_NUMBERS = itertools.count()


@dataclass(frozen=True, slots=True)
class Case:
    """A way for a machine to go.

    Attributes:
        name: As it stands in the table.
        fault: What happens to the machine `name` ten seconds into the load.
    """

    name: str
    fault: Fault


CASES = (
    Case("a noticed preemption", Preempt(at=_FAULT_AFTER_SECONDS)),
    Case("an un-noticed kill", Preempt(notice=0, at=_FAULT_AFTER_SECONDS)),
    Case("a cut link", CutLink(at=_FAULT_AFTER_SECONDS, seconds=_CUT_SECONDS)),
)


def serving_rows(options: Options, seconds: float = 60.0, rate: float = 10.0) -> list[Row]:
    """Failed requests and the 99th percentile of the latency, for each case.

    Raises:
        BenchmarkError: the cloud's side never answered.
    """
    if reason := why_unavailable():
        return [row for case in CASES for row in rows_of(case, NotRun(reason), NotRun(reason))]
    rounds = options.rounds or (1 if options.quick else 3)
    found: dict[str, list[LoadResult]] = {case.name: [] for case in CASES}
    with _service() as service:
        for _ in range(rounds):
            for case in CASES:
                found[case.name].append(under_load(service, case, seconds, rate))
    rows = []
    for case in CASES:
        results = found[case.name]
        failed = Samples.of(failures(result) for result in results)
        p99 = Samples.of(result.latency(0.99) for result in results)
        rows += rows_of(case, failed, p99)
    return rows


def rows_of(case: Case, failed: Figure, p99: Figure) -> list[Row]:
    """The two rows of a case."""
    title = f"Serve through {case.name}, 10 requests/s"
    return [
        Row(THEME, f"{title}: failed", "requests", failed, goal=Goal(0.0, at_most=True)),
        Row(THEME, f"{title}: p99", "s", p99, goal=Goal(P99_GOAL_SECONDS, at_most=True)),
    ]


def failures(result: LoadResult) -> int:
    """Requests that had no right answer in time; a refusal is none here."""
    return sum(outcome.status != 200 for outcome in result.outcomes)


@contextlib.contextmanager
def _service(longest_seconds: float = 1800.0) -> Iterator[Served]:
    variables = {
        "IRONCLIW_MODELS": json.dumps({MODEL: {"placement": "spot"}}),
        "IRONCLIW_CLOUD__IDLE_MINUTES": "5",
    }
    with (
        tempfile.TemporaryDirectory(prefix="ironcliw-bench-") as folder,
        Network() as network,
    ):
        with served(
            Path(folder), variables=variables, network=network, longest_seconds=longest_seconds
        ) as service:
            yield service


def under_load(service: Served, case: Case, seconds: float, rate: float) -> LoadResult:
    """Wake the cloud's side, then load it and take its machine away.

    Raises:
        BenchmarkError: it did not wake.
    """
    node = wait_for_spot(service)
    schedule = poisson_schedule(rate, seconds, _SEED)
    service.world.add(_aimed_at(case.fault, node))
    return service.inside(lambda: asyncio.run(_offer(service.url, schedule, seconds)))


def _aimed_at(fault: Fault, name: str) -> Fault:
    values = {field: getattr(fault, field) for field in fault.__dataclass_fields__}
    return type(fault)(**{**values, "name": name})


async def _offer(url: str, schedule: list[float], seconds: float) -> LoadResult:
    def body(_: int) -> bytes:
        return json.dumps({"model": MODEL, "input": f"text {next(_NUMBERS)}"}).encode()

    return await offer(
        url + "/v1/embeddings", schedule, body, seconds=seconds, give_up_after=_CLIENT_SECONDS
    )


def wait_for_spot(service: Served) -> str:
    """Ask until the cloud answers; the name of the machine that did.

    Raises:
        BenchmarkError: it did not within some minutes.
    """

    def node() -> str | None:
        headers = service.inside(lambda: _ask(service.url, f"wake {next(_NUMBERS)}"))
        return headers["x-ironcliw-node"] if headers.get("x-ironcliw-variant") == "spot" else None

    try:
        return str(service.wait_for(node, _AWAKE_SECONDS, "an answer from the cloud", every=0.5))
    except IroncliwError as error:
        raise BenchmarkError(error.message) from error


def _ask(url: str, text: str) -> Mapping[str, str]:
    body = json.dumps({"model": MODEL, "input": text}).encode()
    request = urllib.request.Request(
        url + "/v1/embeddings", body, {"content-type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return {name.lower(): value for name, value in answer.headers.items()}
    except urllib.error.HTTPError as error:
        return {name.lower(): value for name, value in error.headers.items()}


def describe(case: Case, result: LoadResult) -> str:
    """One line: what came, from where, how fast."""
    sides = Counter(one.variant for one in result.outcomes if one.status == 200)
    return (
        f"{case.name}: {len(result.outcomes)} requests, {failures(result)} failed "
        f"{dict(result.improper)}, p50 {result.latency(0.5):.3f} s, p99 {result.latency(0.99):.3f} "
        f"s, longest {result.latency(1.0):.3f} s, {dict(sides)}"
    )


def main() -> None:
    """Print a line a case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--rate", type=float, default=10.0)
    parser.add_argument("--case", choices=[case.name for case in CASES], action="append")
    given = parser.parse_args()
    if reason := why_unavailable():
        raise SystemExit(reason)
    with _service() as service:
        for case in CASES:
            if case.name in (given.case or [case.name]):
                result = under_load(service, case, given.seconds, given.rate)
                sys.stdout.write(describe(case, result) + "\n")
                sys.stdout.flush()


if __name__ == "__main__":
    main()
