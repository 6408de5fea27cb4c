"""Theme `decisions` over HTTP: decisions a second against embeddings a second, one server."""

from __future__ import annotations

import functools
import itertools
import json
import logging
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks.harness import Goal, Options, Row, Samples, interleave
from benchmarks.servers import MODEL, start_ours
from benchmarks.texts import short_texts
from benchmarks.wrk import Wrk, WrkResult

logger = logging.getLogger(__name__)

RATE_GOAL = Goal(0.8, relative=True)
CONNECTIONS = 16
_TEXTS = 4000
# Fills the same places as the script for embeddings: every text gets a number and is new.
_SCRIPT = """
local texts, number, model = {}, 0, ""

function init(arguments)
  for line in io.lines(arguments[1]) do texts[#texts + 1] = line end
  number, model = tonumber(arguments[3]), arguments[5]
  wrk.method = "POST"
  wrk.headers["Content-Type"] = "application/json"
end

function request()
  local text = texts[number % #texts + 1]
  number = number + 1
  return wrk.format(nil, nil, nil, '{"model":"' .. model .. '","input":"' .. text .. ' ' .. number
    .. '","questions":' .. [==[QUESTIONS]==] .. '}')
end

function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '\\n{"requests":%d,"microseconds":%d,"p50":%g,"p99":%g,"failed":%d,"broken":%d}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    e.status, e.connect + e.read + e.write + e.timeout))
end
"""


class DecisionWrk(Wrk):
    """Posts each text with one question of these labels.

    Args:
        texts: What is decided about; a number is appended to each use.
        labels: The choices.
        folder: Where the script and the texts are written.
    """

    def __init__(self, texts: Sequence[str], labels: Sequence[str], folder: Path) -> None:
        super().__init__(texts, MODEL, folder)
        # not those of the embeddings' runs: what one route asked, the other finds in the cache
        self._starts = itertools.count(1_000_000_000, 1_000_000)
        self._script.write_text(_SCRIPT.replace("QUESTIONS", questions(labels)), encoding="ascii")


def questions(labels: Sequence[str]) -> str:
    """One choice among the labels, as JSON."""
    choices = [{"value": label.replace("_", " ")} for label in labels]
    question = {"type": "choice", "instructions": "What does the user want?", "choices": choices}
    return json.dumps([question])


def rate_rows(options: Options, labels: Sequence[str], rounds: int) -> list[Row]:
    """Start our server, measure both routes in alternation.

    Raises:
        BenchmarkError: the server does not start, wrk is absent, or a request fails.
    """
    texts = short_texts(options.data, _TEXTS, options.seed)
    seconds = 2.0 if options.quick else 10.0
    with ExitStack() as stack:
        # short, since Ray puts socket paths below it
        work = Path(tempfile.mkdtemp(prefix="ib-", dir="/tmp"))
        stack.callback(shutil.rmtree, work, ignore_errors=True)
        for name in ("embeddings", "decisions", "state"):
            (work / name).mkdir()
        embeddings = Wrk(texts, MODEL, work / "embeddings")
        decisions = DecisionWrk(texts, labels, work / "decisions")
        server = stack.enter_context(start_ours(options, work / "state"))
        server.wait_ready()
        logger.info("our server is up")
        url = server.url.replace("/embeddings", "/decisions")
        runs = {
            "decisions": functools.partial(decisions.run, url, connections=CONNECTIONS),
            "embeddings": functools.partial(embeddings.run, server.url, connections=CONNECTIONS),
        }
        for run in runs.values():
            run(seconds=2.0)  # warm-up, not counted
        timed = {name: functools.partial(run, seconds=seconds) for name, run in runs.items()}
        taken = interleave(timed, rounds)
    return build_rows(taken["decisions"], taken["embeddings"], len(labels))


def build_rows(decisions: list[WrkResult], embeddings: list[WrkResult], labels: int) -> list[Row]:
    """Decisions with so many labels against embeddings."""
    title = f"HTTP c={CONNECTIONS}, {labels} labels"
    return [
        Row(
            "decisions",
            f"{title}, against the embedding endpoint",
            "requests/s",
            Samples.of(result.rate for result in decisions),
            {"embeddings": Samples.of(result.rate for result in embeddings)},
            RATE_GOAL,
        ),
        Row(
            "decisions",
            f"{title}, p50",
            "ms",
            Samples.of(result.p50_ms for result in decisions),
            {"embeddings": Samples.of(result.p50_ms for result in embeddings)},
        ),
    ]
