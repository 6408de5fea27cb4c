"""infinity-emb in bfloat16, from an environment of its own: it needs older libraries than ours.

`make bench-peers` creates the environment; without it the peer is reported as not run.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.harness import NotRun
from benchmarks.machine import ROOT

ENVIRONMENT = ROOT / ".venv-peers" / "infinity"
PROGRAM = ENVIRONMENT / "bin" / "infinity_emb"
# no telemetry and no look at the hub: the model is a folder here
VARIABLES = {"INFINITY_ANONYMOUS_USAGE_STATS": "0", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}


def missing() -> NotRun | None:
    """Why the peer cannot run, or None when it can."""
    if PROGRAM.exists():
        return None
    return NotRun("infinity-emb is not installed; `make bench-peers` does it")


def site_packages() -> Path | None:
    """Where its packages are, for their versions."""
    return next(ENVIRONMENT.glob("lib/python*/site-packages"), None)


def command(model: Path, served_name: str, port: int) -> list[str]:
    """The server as its README starts it, on the CPU with the torch engine in bfloat16."""
    options = {
        "model-id": model,
        "served-model-name": served_name,
        "engine": "torch",
        "device": "cpu",
        "dtype": "bfloat16",
        "batch-size": 32,
        "url-prefix": "/v1",
        "host": "127.0.0.1",
        "port": port,
    }
    flags = [f"--{name}={value}" for name, value in options.items()]
    # BetterTransformer needs optimum below 2.0, which is not installed
    return [str(PROGRAM), "v2", *flags, "--no-bettertransformer"]
