"""A contestant in a process of its own, driven by JSON lines on standard input and output.

    {"op": "texts", "name": "short", "texts": [...]}  ->  {"ok": true}
    {"op": "time", "name": "short"}                   ->  {"seconds": 0.71}
    {"op": "vectors", "name": "short", "path": "..."} ->  {"ok": true}   (writes a .npy file)

A process each, because the instruction-set cap and the thread count are read when torch is
imported, and because one library's threads and caches must not touch another's figures.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from benchmarks.harness import BenchmarkError, NotRun

# Texts in, float32 [texts, dimensions] out; or None where a contestant has no vectors.
Embed = Callable[[list[str]], Any]
Answer = Callable[[dict[str, Any]], None]


class Child:
    """The parent's end: starts the process, sends requests, ends it.

    Args:
        builder: Dotted `module:function`; `function(model, threads)` returns the embed function.
        model: Folder of the model.
        threads: Compute threads.
        environment: The whole environment of the process.
        log: File for whatever the process writes.
    """

    def __init__(
        self, builder: str, model: Path, threads: int, environment: dict[str, str], log: Path
    ) -> None:
        self._builder, self._log = builder, log
        command = [sys.executable, "-m", "benchmarks.child", builder, str(model), str(threads)]
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                env=environment,
                cwd=Path(__file__).resolve().parent.parent,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                text=True,
                start_new_session=True,
            )

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def wait_ready(self, seconds: float) -> NotRun | None:
        """Wait until the model is loaded; a contestant that is not installed says so."""
        answer = self._read(seconds)
        return NotRun(str(answer["missing"])) if "missing" in answer else None

    def call(self, seconds: float = 300.0, **request: Any) -> dict[str, Any]:
        """Send a request and wait for its answer.

        Raises:
            BenchmarkError: the process ended or took longer than `seconds`.
        """
        assert self._process.stdin is not None
        # a process that has ended is reported by the read below, with its log
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        return self._read(seconds)

    def close(self) -> None:
        """End the process: it leaves at the end of its input, and is killed if it does not."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def _read(self, seconds: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        watchdog = threading.Timer(seconds, self._process.kill)
        watchdog.start()
        line = self._process.stdout.readline()
        watchdog.cancel()
        if not line:
            tail = self._log.read_text(encoding="utf-8", errors="replace")[-1500:]
            raise BenchmarkError(
                f"contestant {self._builder} ended or gave no answer in {seconds:.0f} s; its last "
                f"output was:\n{tail}"
            )
        answer: dict[str, Any] = json.loads(line)
        return answer


def serve_requests(embed: Embed, requests: IO[str], answer: Answer) -> None:
    """Answer requests until the input ends."""
    import numpy as np

    texts: dict[str, list[str]] = {}
    for line in requests:
        request = json.loads(line)
        name = request["name"]
        if request["op"] == "texts":
            texts[name] = request["texts"]
            answer({"ok": True})
        elif request["op"] == "time":
            started = time.perf_counter()
            embed(texts[name])
            answer({"seconds": time.perf_counter() - started})
        else:
            np.save(request["path"], np.asarray(embed(texts[name]), dtype=np.float32))
            answer({"ok": True})


def main(arguments: Sequence[str]) -> None:
    """The process's entry: build the contestant, say that it is ready, answer requests."""
    builder, model, threads = arguments
    # whatever a library prints must not get between our lines
    lines = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(values: dict[str, Any]) -> None:
        lines.write(json.dumps(values) + "\n")
        lines.flush()

    module, _, function = builder.partition(":")
    try:
        embed: Embed = getattr(importlib.import_module(module), function)(Path(model), int(threads))
    except ModuleNotFoundError as error:
        answer({"missing": f"{error.name} is not installed; `pip install 'ironcliw[bench]'`"})
        return
    answer({"ready": True})
    serve_requests(embed, sys.stdin, answer)


if __name__ == "__main__":
    main(sys.argv[1:])
