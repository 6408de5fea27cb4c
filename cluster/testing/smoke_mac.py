"""A smoke run of a head on a Mac: doctor, up, embed, generate, a job, down.

    make smoke-mac

It has a state directory and ports of its own, asks no cloud, and leaves nothing behind. Elsewhere
than on a Mac it refuses, but for `--any-system`, which tries the steps and proves nothing of macOS.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from cluster.environment import detect, this_machine
from cluster.testing.ports import free_ports
from cluster.testing.smoke import Say, Smoke, finish, refuse_what_is_wrong
from ironcliw.console import write_line
from ironcliw.errors import ClusterError
from ironcliw.settings import load_settings

PORTS = (
    "IRONCLIW_SERVE__PORT",
    "IRONCLIW_CLUSTER__GCS_PORT",
    "IRONCLIW_CLUSTER__DASHBOARD_PORT",
    "IRONCLIW_CLUSTER__METRICS_PORT",
    "IRONCLIW_CLUSTER__AGENT_PORT",
)
_JOB = """\
import os, platform, ray
ray.init()
square = ray.remote(lambda x: (x * x, os.getpid()))
found = ray.get([square.remote(x) for x in range(8)])
print("squares", sum(x for x, _ in found), "in", len({pid for _, pid in found}), "processes")
print("worker", platform.machine())
"""


def own_environment(folder: Path) -> dict[str, str]:
    """Settings of a head that disturbs no other one."""
    found = {name: str(port) for name, port in zip(PORTS, free_ports(len(PORTS)), strict=True)}
    return {
        **found,
        "IRONCLIW_STATE_DIR": str(folder / "state"),
        # short: it becomes part of a socket's path
        "IRONCLIW_CLUSTER__TEMP_DIR": f"/tmp/icw-smoke-{found[PORTS[0]]}",
        "IRONCLIW_CLUSTER__NODE_IP": "127.0.0.1",
        "IRONCLIW_CLUSTER__START_TIMEOUT_SECONDS": "180",
    }


def smoke_mac(smoke: Smoke, folder: Path) -> int:
    """The run; returns the exit code."""
    smoke.introduce("a smoke run of a head")
    try:
        with smoke.step("doctor") as seen:
            seen += refuse_what_is_wrong(smoke)
        try:
            _use(smoke, folder)
        finally:
            with smoke.step("down") as seen:
                seen.append(f"{smoke.json('down')['ended_processes']} processes ended")
    except ClusterError:
        pass  # told by its step
    return finish(smoke)


def _use(smoke: Smoke, folder: Path) -> None:
    with smoke.step("up") as seen:
        seen.append(f"ready in {smoke.json('up')['seconds']} s")
    with smoke.step("status") as seen:
        [node] = smoke.json("status")["nodes"]
        seen.append(f"node {node['name']}, alive: {node['alive']}")
    with smoke.step("embed") as seen:
        seen.append(smoke.ironcliw("embed", "a smoke run").splitlines()[-1])
    with smoke.step("generate") as seen:
        answer = smoke.ironcliw(
            "chat", "Name a colour.", "--temperature", "0", "--max-tokens", "12"
        )
        seen.append(repr(answer.strip()))
    with smoke.step("job") as seen:
        told = [line for line in smoke.job(folder / "job", _JOB).splitlines() if line]
        seen += [line for line in told if line.startswith(("squares", "worker"))]
        if not any(line.startswith("squares 140 ") for line in told):
            raise ClusterError("the job printed no sum of squares:\n" + "\n".join(told[-20:]))


def main(arguments: Sequence[str] | None = None, say: Say = write_line) -> int:
    """Run as `python -m cluster.testing.smoke_mac`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--any-system", action="store_true", help="run on Linux as well")
    given = parser.parse_args(arguments)
    machine = detect(this_machine(load_settings().cloud.metadata_url))
    if machine.system != "Darwin" and not given.any_system:
        say(f"this is {machine.system}; run it on a Mac, or try its steps with --any-system")
        return 2
    if machine.system != "Darwin":
        say(f"this is {machine.system}: what follows proves nothing of macOS")
    say(machine.describe())
    with tempfile.TemporaryDirectory(prefix="icw-") as folder:
        where = Path(folder)
        # there is no ironcliw.toml there, so nothing of the user's counts but the environment
        return smoke_mac(Smoke(own_environment(where), say, cwd=where), where)


if __name__ == "__main__":
    sys.exit(main())
