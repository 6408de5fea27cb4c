"""Theme `serving` without servers: wrk's output, rows, ports, the batching tax."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from benchmarks.harness import BenchmarkError, NotRun, Samples
from benchmarks.load import LoadResult, Outcome
from benchmarks.servers import Server, post
from benchmarks.themes.batching_tax import batching_tax
from benchmarks.themes.serving_latency import INFINITY, MEASURES, OURS, STOCK, measure_rows
from benchmarks.themes.serving_overload import _Load, build_rows
from benchmarks.wrk import Wrk, WrkResult, parse
from cluster.testing.ports import free_ports
from ironcliw.settings import process_environment
from tests.requirements import need

FIGURES = {"requests": 500, "microseconds": 2_000_000, "p50": 900, "p99": 4000}


def test_figures_are_read_from_the_last_line() -> None:
    output = "Running 2s test\n" + json.dumps({**FIGURES, "failed": 0, "broken": 0}) + "\n"
    assert parse(output, "http://x") == WrkResult(rate=250.0, p50_ms=0.9, p99_ms=4.0)


@pytest.mark.parametrize("wrong", [{"failed": 3, "broken": 0}, {"failed": 0, "broken": 1}])
def test_a_rate_of_failures_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(BenchmarkError, match="look at the server's log"):
        parse(json.dumps({**FIGURES, **wrong}), "http://x")


def test_no_answers_and_no_figures_are_errors() -> None:
    with pytest.raises(BenchmarkError, match="no request was answered"):
        parse(json.dumps({**FIGURES, "requests": 0, "failed": 0, "broken": 0}), "http://x")
    with pytest.raises(BenchmarkError, match="gave no figures: unable to connect"):
        parse("unable to connect", "http://x")


def result(p50: float, rate: float) -> list[WrkResult]:
    return [WrkResult(rate=rate, p50_ms=p50, p99_ms=2 * p50)]


def test_rows_carry_the_goals_of_their_peers() -> None:
    results = {OURS: result(4.0, 800.0), STOCK: result(20.0, 100.0)}
    absent = {INFINITY: NotRun("not installed")}
    rows = [row for measure in MEASURES for row in measure_rows(measure, results, absent)]
    met = {row.name: row.met for row in rows}
    assert met[f"HTTP c=1 p50 against {STOCK}"] is True
    assert met[f"HTTP c=1 p50 against {INFINITY}"] is False
    assert met[f"HTTP c=16 against {STOCK}"] is True
    assert met[f"HTTP c=1 p99 against {STOCK}"] is None
    batch = next(row for row in rows if row.name.startswith("HTTP 4 x 32"))
    assert isinstance(batch.ours, Samples)
    assert batch.ours.median == 32 * 800


def outcomes(good: int, bad: int) -> LoadResult:
    answered = [Outcome(0.0, 0.1, 200) for _ in range(good)]
    failed = [Outcome(0.0, 0.1, 503) for _ in range(bad)]
    return LoadResult((*answered, *failed), seconds=10.0)


@pytest.mark.parametrize(
    ("good", "bad", "met"), [(90, 0, (True, True)), (89, 1, (False, False)), (0, 0, (False, True))]
)
def test_overload_rows_judge_goodput_and_errors(
    good: int, bad: int, met: tuple[bool, bool]
) -> None:
    rows = build_rows(outcomes(good, bad), peak=10.0, slo=0.5, offered=20.0)
    assert (rows[0].met, rows[1].met) == met
    assert rows[1].note == ("1 x 503" if bad else "")


def test_no_two_requests_hold_the_same_text() -> None:
    load = _Load("http://x", ["one text", "another"], seed=0)
    body = load._bodies()
    texts = [text for index in range(3) for text in json.loads(body(index))["input"]]
    assert len(set(texts)) == len(texts) == 96


def test_ports_are_free_and_distinct() -> None:
    ports = free_ports(5)
    assert len(set(ports)) == 5
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", ports[0]))


def test_the_batching_tax_is_measured_and_small() -> None:
    (row,) = batching_tax(1)
    assert isinstance(row.ours, Samples)
    # not the goal, which wants a quiet machine: only that it is a plausible time
    assert -0.05 < row.ours.median < 20


class Recorder(BaseHTTPRequestHandler):
    """Keeps every body, answers 200."""

    protocol_version = "HTTP/1.1"
    bodies: list[dict[str, object]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.bodies.append(json.loads(body))
        self.send_response(200)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *args: object) -> None:
        """Stay silent."""


@pytest.fixture
def recorder() -> Iterator[tuple[str, list[dict[str, object]]]]:
    """Address of a loopback server, and the bodies that it was sent."""
    bodies: list[dict[str, object]] = []
    handler = type("Bound", (Recorder,), {"bodies": bodies})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1/embeddings", bodies
        server.shutdown()
        thread.join()


def test_post_reports_status_and_headers(
    recorder: tuple[str, list[dict[str, object]]],
) -> None:
    url, bodies = recorder
    status, headers = post(url, ["a", "b"])
    assert status == 200
    assert headers["content-length"] == "2"
    assert bodies[0]["input"] == ["a", "b"]
    (port,) = free_ports(1)
    assert post(f"http://127.0.0.1:{port}/", ["a"]) == (0, {})


def test_closed_loop_capacity_counts_answers(
    recorder: tuple[str, list[dict[str, object]]],
) -> None:
    url, bodies = recorder
    capacity = asyncio.run(_Load(url, ["text"], seed=0)._closed(0.2))
    assert capacity > 0
    assert len(bodies) >= 4


def test_wrk_posts_distinct_texts_unless_told_to_repeat(
    recorder: tuple[str, list[dict[str, object]]], tmp_path: Path
) -> None:
    need(shutil.which("wrk"), "wrk was not found: install it (Debian: apt-get install wrk)")
    url, bodies = recorder
    wrk = Wrk(['say "hi"', "it's a \\ sign"], "m", tmp_path)
    assert wrk.run(url, connections=2, seconds=1, per_request=2).rate > 0
    texts = [text for body in bodies for text in body["input"]]  # type: ignore[attr-defined]
    assert len(set(texts)) == len(texts) > 2
    assert any(text.startswith('say "hi" ') for text in texts)
    bodies.clear()
    wrk.run(url, connections=1, seconds=1, repeat=True)
    assert len({str(body["input"]) for body in bodies}) == 1


def test_a_server_that_ends_at_once_shows_its_log(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    command = ["sh", "-c", "echo the port is cursed; exit 1"]
    url = f"http://127.0.0.1:{port}/v1/embeddings"
    with (
        Server("broken", command, url, process_environment(), tmp_path) as server,
        pytest.raises(BenchmarkError, match="broken did not start:\nthe port is cursed"),
    ):
        server.wait_ready()
