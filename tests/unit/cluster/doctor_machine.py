"""A Mac on which all is well, for tests that spoil one thing at a time."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cluster.doctor.probes import Credentials, Interface, Probes
from cluster.doctor.report import Check, State
from cluster.environment import GIBIBYTE, Environment, Gpu, MachineKind
from ironcliw.settings import Settings

ADDRESS = "100.64.0.1"
HEAD_ID = "0123abcd"
NOW = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)
MAC = Environment(
    MachineKind.MAC, "Darwin", "arm64", "Apple M1", 8, 16 * GIBIBYTE, (Gpu("mps", "Apple M1"),)
)
TAILSCALE = {"BackendState": "Running", "TUN": True, "TailscaleIPs": [ADDRESS, "fd7a::1"]}
INTERFACES = {
    "lo0": Interface(("127.0.0.1",), True, 16384),
    "en0": Interface(("192.168.1.7",), True, 1500),
    "utun4": Interface((ADDRESS, "fd7a::1"), True, 1280),
}


def settings_of(folder: Path, **sections: dict[str, Any]) -> Settings:
    """Settings of a head with workers; `sections` win."""
    base: dict[str, dict[str, Any]] = {
        "cloud": {
            "project": "my-project",
            "vpn_secret": "vpn-key",
            "token_secret": "ray-token",
            "service_account": "worker@my-project.iam.gserviceaccount.com",
        },
        "cluster": {"node_ip": ADDRESS},
    }
    merged = {name: {**base.get(name, {}), **sections.get(name, {})} for name in {*base, *sections}}
    return Settings.model_validate({"state_dir": folder, **merged})


def programs(tailscale: object = TAILSCALE, awake: bool = True) -> Any:
    """What programs print on the healthy Mac."""

    def output(*command: str) -> str | None:
        if command[0] == "pmset":
            return f"   PreventUserIdleSystemSleep    {int(awake)}\n"
        if command[1:] == ("status", "--json"):
            return tailscale if isinstance(tailscale, str) else json.dumps(tailscale)
        return None

    return output


def no_cloud() -> Any:
    raise AssertionError("nobody should ask the cloud")


HEALTHY = Probes(
    environment=lambda: MAC,
    python=lambda: "3.11.7",
    match_level=lambda: "patch",
    installed={"ray": "2.60.0", "google-cloud-compute": "1.57.0"}.get,
    required={"ray": "2.60.0"}.get,
    variable={"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1"}.get,
    program=lambda name: f"/usr/local/bin/{name}",
    output=programs(),
    interfaces=lambda: INTERFACES,
    listener=lambda host, port: None,
    reaches_itself=lambda address: None,
    head_runs=lambda: False,
    nodes=lambda: None,
    listening=lambda: None,
    ordered=lambda: None,
    head_id=lambda: HEAD_ID,
    free_bytes=lambda path: 100 * GIBIBYTE,
    mode=lambda path: 0o600,
    token=lambda: "token",
    secret={"ray-token": "token"}.get,
    clock_offset=lambda url: 0.4,
    credentials=lambda: Credentials("", "me@example.org, project my-project"),
    compute=no_cloud,
    now=lambda: NOW,
)


def healthy(**changes: Any) -> Probes:
    """The healthy Mac, but for some probes."""
    return dataclasses.replace(HEALTHY, **changes)


def assert_wrong(check: Check, state: State, found: str, step: str) -> None:
    """A check has a state, and says this and that."""
    assert (check.state, found in check.found, step in check.next_step) == (state, True, True), (
        check
    )
