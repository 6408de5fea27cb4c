"""Closed-loop load by `wrk`, a client so light (0.1 ms) that it hardly adds to what it measures.

Each request posts texts that were never posted before (a number is appended), so that an answer
kept by content cannot help; `repeat` posts one request again and again, for just that case.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.harness import BenchmarkError

# `wrk.format` wants no host: it is taken from the command line. One thread, so one counter.
_SCRIPT = """
local texts, number, per_request, repeated, model = {}, 0, 1, false, ""

function init(arguments)
  for line in io.lines(arguments[1]) do texts[#texts + 1] = line end
  per_request, number = tonumber(arguments[2]), tonumber(arguments[3])
  repeated, model = arguments[4] == "repeat", arguments[5]
  wrk.method = "POST"
  wrk.headers["Content-Type"] = "application/json"
end

local function item()
  local text = texts[number % #texts + 1]
  if not repeated then number = number + 1 end
  return '"' .. text .. ' ' .. number .. '"'
end

function request()
  local items = {}
  for i = 1, per_request do items[i] = item() end
  local input = per_request == 1 and items[1] or "[" .. table.concat(items, ",") .. "]"
  return wrk.format(nil, nil, nil, '{"model":"' .. model .. '","input":' .. input .. '}')
end

function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '\\n{"requests":%d,"microseconds":%d,"p50":%g,"p99":%g,"failed":%d,"broken":%d}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    e.status, e.connect + e.read + e.write + e.timeout))
end
"""
_MARGIN_SECONDS = 30.0


@dataclasses.dataclass(frozen=True, slots=True)
class WrkResult:
    """One run.

    Attributes:
        rate: Answers a second.
        p50_ms: Median latency in milliseconds.
        p99_ms: 99th percentile of latency in milliseconds.
    """

    rate: float
    p50_ms: float
    p99_ms: float


class Wrk:
    """Runs `wrk` with texts of its own.

    Args:
        texts: What is posted; a number is appended to each use.
        model: The model's name in the request.
        folder: Where the script and the texts are written.

    Raises:
        BenchmarkError: wrk is not installed.
    """

    def __init__(self, texts: Sequence[str], model: str, folder: Path) -> None:
        program = shutil.which("wrk")
        if program is None:
            raise BenchmarkError(
                "wrk is not installed; `apt-get install wrk` or `brew install wrk`"
            )
        self._program, self._model = program, model
        self._script, self._texts = folder / "post.lua", folder / "texts.txt"
        self._script.write_text(_SCRIPT, encoding="ascii")
        escaped = [json.dumps(text)[1:-1] for text in texts]
        self._texts.write_text("\n".join(escaped) + "\n", encoding="ascii")
        # far enough apart that no two runs post the same text
        self._starts = itertools.count(1_000_000, 1_000_000)

    def run(
        self,
        url: str,
        *,
        connections: int,
        seconds: float,
        per_request: int = 1,
        repeat: bool = False,
    ) -> WrkResult:
        """Post for some seconds over so many connections, each waiting for its answer.

        Raises:
            BenchmarkError: a request failed, or wrk did not end.
        """
        parts = urlsplit(url)
        start = 1 if repeat else next(self._starts)
        mode = "repeat" if repeat else "distinct"
        command = [self._program, "--threads", "1", "--connections", str(connections)]
        # wrk counts in whole seconds; answers may take long on a slow server
        command += ["--duration", f"{max(1, round(seconds))}s", "--timeout", "20s"]
        command += ["--script", str(self._script), f"http://{parts.netloc}{parts.path}", "--"]
        command += [str(self._texts), str(per_request), str(start), mode, self._model]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=seconds + _MARGIN_SECONDS
            )
        except subprocess.TimeoutExpired as error:
            raise BenchmarkError(f"wrk on {url} did not end after {error.timeout:.0f} s") from None
        return parse(done.stdout, url, done.stderr)


def parse(output: str, url: str, complaint: str = "") -> WrkResult:
    """The figures in wrk's output.

    Raises:
        BenchmarkError: there are none, or requests failed: such a rate would mean nothing.
    """
    line = next((text for text in reversed(output.splitlines()) if text.startswith("{")), None)
    if line is None:
        raise BenchmarkError(f"wrk on {url} gave no figures: {output[-500:]}{complaint[-500:]}")
    values = json.loads(line)
    if not values["requests"]:
        raise BenchmarkError(f"wrk on {url}: no request was answered in the time given")
    if values["failed"] or values["broken"]:
        raise BenchmarkError(
            f"wrk on {url}: {values['failed']} of {values['requests']} requests were refused, "
            f"{values['broken']} broke; look at the server's log"
        )
    return WrkResult(
        rate=values["requests"] / (values["microseconds"] / 1e6),
        p50_ms=values["p50"] / 1e3,
        p99_ms=values["p99"] / 1e3,
    )
