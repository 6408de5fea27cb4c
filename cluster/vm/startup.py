"""What a worker VM is given at its creation: the startup script and the instance metadata.

Nothing secret stands in the script. Ray's token comes from Secret Manager; without a name of a
secret it is instance metadata, which everybody may read who may look at the project's VMs.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources

from cluster.machines import METADATA_VALUE_BYTES
from cluster.vm.join_check import HeadVersions
from cluster.vm.lifecycle import DEFAULT_NOTICE_SECONDS, NOTICE_ATTRIBUTE
from ironcliw.errors import SettingsError
from ironcliw.setting_sections import CloudSettings

STARTUP_ATTRIBUTE = "startup-script"
AGENT_ATTRIBUTE = "ironcliw-agent"
CONFIG_ATTRIBUTE = "ironcliw-agent-config"
TOKEN_ATTRIBUTE = "ironcliw-token"
REQUIREMENTS_ATTRIBUTE = "ironcliw-requirements"
CONSTRAINTS_ATTRIBUTE = "ironcliw-constraints"
AGENT_FILES = (
    "__init__.py",
    "vm/__init__.py",
    "vm/agent.py",
    "vm/facts.py",
    "vm/head.py",
    "vm/lifecycle.py",
)

UV_VERSION = "0.13.9"
# Ray's processes end themselves after this time without a head; the agent must be the first.
_RAY_PATIENCE_SECONDS = 120
PULL_TIMEOUT = {"RAY_object_manager_pull_timeout_ms": "2000"}
"""After so long a node asks another one for an object. Until Ray's health check has found out that
a machine is gone (15 s), objects are asked of it in vain: a run of training that was begun again
elsewhere waited for the whole of Ray's own 10 s."""


@dataclass(frozen=True, slots=True)
class HeadAddress:
    """Where the head's GCS listens, as a worker reaches it: through the VPN."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class WorkerFacts:
    """What one worker is to Ray.

    Attributes:
        node_type: key of `available_node_types`.
        resources: Ray's, as `{"CPU": 4, "memory": 34359738368}`.
        labels: Ray's node labels, as `{"ray.io/market-type": "spot"}`.
        versions: the head's.
        token: Ray's access token; used where `cloud.token_secret` is unset.
    """

    node_type: str
    resources: Mapping[str, float]
    labels: Mapping[str, str]
    versions: HeadVersions
    token: str | None = field(default=None, repr=False)


def startup_script(cloud: CloudSettings, head: HeadAddress, facts: WorkerFacts) -> str:
    """The bash script that the VM runs at every boot.

    Raises:
        SettingsError: the VPN, or a secret, lacks a setting.
    """
    _check(cloud)
    ray_patience = math.ceil(cloud.head_gone_minutes * 60) + _RAY_PATIENCE_SECONDS
    constants = {
        "METADATA_URL": cloud.metadata_url,
        "PROJECT": cloud.project or "",
        "BAKED": "true" if cloud.image_is_baked else "false",
        "PYTHON_VERSION": facts.versions.python,
        "MODELS": " ".join(facts.versions.models),
        "UV_VERSION": UV_VERSION,
        "VPN": cloud.vpn,
        "VPN_SECRET": cloud.vpn_secret or "",
        "TOKEN_SECRET": cloud.token_secret or "",
        "HEAD": str(head),
        "RAY_NODE_TYPE_NAME": facts.node_type,
        "RAY_CLOUD_INSTANCE_TYPE_NAME": cloud.machine_type,
        "RAY_OVERRIDE_RESOURCES": json.dumps(dict(facts.resources)),
        "RAY_OVERRIDE_LABELS": json.dumps(dict(facts.labels)),
        "RAY_DEFAULT_PYTHON_VERSION_MATCH_LEVEL": facts.versions.match,
        "RAY_gcs_rpc_server_reconnect_timeout_s": str(ray_patience),
        **PULL_TIMEOUT,
    }
    return vm_script("startup.sh", constants)


def vm_script(body: str, constants: Mapping[str, str]) -> str:
    """A script of this folder behind what VMs have in common, with its constants before both."""
    lines = [f"{name}={shlex.quote(value)}" for name, value in constants.items()]
    folder = resources.files("cluster.vm")
    parts = [folder.joinpath(name).read_text(encoding="utf-8") for name in ("install.sh", body)]
    return "\n".join(["#!/bin/bash", *lines, *parts])


def metadata(cloud: CloudSettings, head: HeadAddress, facts: WorkerFacts) -> dict[str, str]:
    """All instance metadata of a worker, the startup script among it.

    Whoever creates the VM without the notice that `cloud.notice_seconds` asks for, because GCE
    refused it, must set NOTICE_ATTRIBUTE to what it gets: the agent trusts it.

    Raises:
        SettingsError: a setting is missing, or a value is longer than GCE takes.
    """
    timing = {"head_gone": cloud.head_gone_minutes * 60, "join": cloud.join_seconds}
    config = {"head": str(head), "timing": timing, "versions": facts.versions.to_json()}
    found = {
        STARTUP_ATTRIBUTE: startup_script(cloud, head, facts),
        AGENT_ATTRIBUTE: agent_source(),
        CONFIG_ATTRIBUTE: json.dumps(config),
        NOTICE_ATTRIBUTE: str(cloud.notice_seconds or DEFAULT_NOTICE_SECONDS),
    }
    if not cloud.image_is_baked:
        found[REQUIREMENTS_ATTRIBUTE] = "".join(f"{r}\n" for r in facts.versions.requirements)
        found[CONSTRAINTS_ATTRIBUTE] = facts.versions.constraints()
    if cloud.token_secret is None:
        if not facts.token:
            raise SettingsError(
                "a worker needs Ray's token and has no way to get it: start the head with "
                "`ironcliw up`, which makes one, or set cloud.token_secret"
            )
        found[TOKEN_ATTRIBUTE] = facts.token
    for name, value in found.items():
        if len(value.encode()) > METADATA_VALUE_BYTES:
            raise SettingsError(
                f"metadata {name} has more than {METADATA_VALUE_BYTES} bytes: {name}"
            )
    return found


def agent_source() -> str:
    """The agent's files as a JSON object of path and text."""
    folder = resources.files("cluster")
    return json.dumps(
        {f"cluster/{name}": folder.joinpath(name).read_text("utf-8") for name in AGENT_FILES}
    )


def _check(cloud: CloudSettings) -> None:
    if cloud.vpn != "none" and cloud.vpn_secret is None:
        raise SettingsError(
            f"setting cloud.vpn is {cloud.vpn!r}, and its workers need a key: set "
            "cloud.vpn_secret to the name of a secret, or cloud.vpn to 'none'"
        )
    if cloud.project is None and (cloud.vpn_secret or cloud.token_secret):
        raise SettingsError("secrets belong to a project: set cloud.project")
