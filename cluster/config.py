"""The cluster's definition for Ray's autoscaler, `ray_cluster.yaml`, rendered from the settings.

The file is whole: Ray's part, and below `provider` all that `cluster.provider` needs, so that plain
`ray start --head --autoscaling-config=ray_cluster.yaml` works too. It never holds a secret: the
settings that it carries only name secrets. `cluster.config_check` says what is wrong with a file.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Any

import yaml

from cluster.machines import machine_type, region_of
from ironcliw.errors import ClusterError, SettingsError
from ironcliw.setting_sections import CloudSettings
from ironcliw.settings import Settings

CLUSTER_FILE = "ray_cluster.yaml"
HEAD_TYPE = "head"
SPOT_TYPE = "spot"
# The head's RAY_CLOUD_INSTANCE_ID. Autoscaler v2 launches nothing while the head has none.
HEAD_INSTANCE_ID = "ironcliw-head"
PROVIDER_CLASS = "cluster.provider.GceSpotProvider"
# Ray's own default: it gives 30 % of a node's memory to the object store, and the rest to work
# (ray/_private/ray_constants.py, DEFAULT_OBJECT_STORE_MEMORY_PROPORTION).
WORK_MEMORY_SHARE = 0.7
# Label of a node, and its values. https://docs.ray.io/en/latest/ray-core/scheduling/labels.html
MARKET_LABEL = "ray.io/market-type"
REGION_LABEL = "ray.io/availability-region"
GROUP_LABEL = "ray.io/node-group"
_MARKETS = {"spot": "spot", "regular": "on-demand"}
_MEBIBYTE = 2**20

RENDERED = "Rendered by `ironcliw cluster render`"
"""By it a file that may be written anew is known."""
# a region, a hyphen, and a letter, or as in us-central1-ai1a
_ZONE = re.compile(r"[a-z]+-[a-z]+\d+-[a-z][a-z0-9]*")
_HEADER = f"""\
# The whole cluster: this machine as its head, and workers on GCP that come and go with the work.
#
# {RENDERED} from the settings; change `ironcliw.toml` rather than this
# file, or check a change with `ironcliw cluster validate`. `max_workers` is 0 as long as the
# setting cloud.project is unset: nothing is launched then.
#
# `ironcliw up` starts the head with it. So does plain Ray, where the head has the id below:
#
#   export RAY_enable_autoscaler_v2=1
#   export RAY_CLOUD_INSTANCE_ID={HEAD_INSTANCE_ID} RAY_NODE_TYPE_NAME={HEAD_TYPE}
#   export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$HOME/.ironcliw/token
#   ray start --head --port=PORT --node-ip-address=ADDRESS --autoscaling-config={CLUSTER_FILE}
#
# with the address and the port of `provider.head`. The token is the one that workers are given:
# `token` in the state directory, made by the first `ironcliw up`.
#
# Plain Ray starts, counts and deletes machines, the stopped ones too. To meter egress, to drain
# work at the cap, and to order a replacement at the notice, start beside it, in the same shell:
#
#   python -m cluster.control.controller </dev/null

"""

# Ray's cluster launcher would use these. Nothing here logs in to a worker (each starts itself),
# but Ray gives an external provider no defaults: without them its autoscaler stops at start.
_LAUNCHER_KEYS: dict[str, Any] = {
    "auth": {},
    "file_mounts": {},
    "cluster_synced_files": [],
    "initialization_commands": [],
    "setup_commands": [],
    "head_setup_commands": [],
    "worker_setup_commands": [],
    "head_start_ray_commands": [],
    "worker_start_ray_commands": [],
}
REQUIRED_KEYS = (
    "cluster_name",
    "max_workers",
    "idle_timeout_minutes",
    "provider",
    "head_node_type",
    "available_node_types",
    *_LAUNCHER_KEYS,
)


def render(settings: Settings) -> dict[str, Any]:
    """The definition that the settings mean; plain values, as YAML and JSON know them.

    Raises:
        SettingsError: the machine type is not known, or the zones are of several regions.
    """
    cloud = settings.cloud
    return {
        "cluster_name": cloud.cluster_name,
        "max_workers": cloud.max_workers if cloud.project else 0,
        "idle_timeout_minutes": cloud.idle_minutes,
        "upscaling_speed": 1.0,
        "provider": _provider(settings),
        "head_node_type": HEAD_TYPE,
        "available_node_types": {
            HEAD_TYPE: _head_type(),
            SPOT_TYPE: _worker_type(cloud),
        },
        # copies: YAML would write a shared list as an alias
        **{key: type(value)() for key, value in _LAUNCHER_KEYS.items()},
    }


def _provider(settings: Settings) -> dict[str, Any]:
    return {
        "type": "external",
        "module": PROVIDER_CLASS,
        # a worker joins by its startup script: nobody may wait for SSH from the head
        "disable_node_updaters": True,
        "head": {
            "instance_id": HEAD_INSTANCE_ID,
            "node_type": HEAD_TYPE,
            "address": settings.cluster.node_ip,
            "port": settings.cluster.gcs_port,
        },
        "cloud": settings.cloud.model_dump(mode="json"),
        "budget": settings.budget.model_dump(mode="json"),
    }


def _head_type() -> dict[str, Any]:
    # what the head offers is detected when it starts
    return {
        "resources": {},
        "labels": {GROUP_LABEL: HEAD_TYPE},
        "node_config": {},
        "min_workers": 0,
        "max_workers": 0,
    }


def _worker_type(cloud: CloudSettings) -> dict[str, Any]:
    return {
        "resources": worker_resources(cloud),
        # a node has its group's label by itself; the autoscaler, which asks whether a machine that
        # does not exist yet would fit a label selector, knows only what stands here
        "labels": {
            GROUP_LABEL: SPOT_TYPE,
            MARKET_LABEL: _MARKETS[cloud.market],
            REGION_LABEL: cloud_region(cloud),
        },
        # everything is in provider.cloud
        "node_config": {},
        "min_workers": 0,
        "max_workers": cloud.max_workers,
        "idle_timeout_s": cloud.idle_minutes * 60,
    }


def worker_resources(cloud: CloudSettings) -> dict[str, int]:
    """What a worker offers: integers, as Ray's schema demands; memory in bytes.

    `spot` is there whichever way the machine is bought: it is what work for the cloud asks for.

    Raises:
        SettingsError: the machine type is not known.
    """
    try:
        machine = machine_type(cloud.machine_type)
    except ClusterError as error:
        raise SettingsError(f"setting cloud.machine_type: {error.message}") from error
    mebibytes = int(machine.memory_gb * 1024 * WORK_MEMORY_SHARE)
    return {"CPU": machine.cpus, "memory": mebibytes * _MEBIBYTE, "spot": 1}


def cloud_region(cloud: CloudSettings) -> str:
    """The region of the zones.

    Raises:
        SettingsError: they are of several, one is given twice, or is no zone's name.
    """
    for zone in cloud.zones:
        if not _ZONE.fullmatch(zone):
            raise SettingsError(
                f"setting cloud.zones holds {zone!r}, which is no zone: a zone is a region, a "
                "hyphen and a letter, for example us-central1-a"
            )
        if cloud.zones.count(zone) > 1:
            raise SettingsError(f"setting cloud.zones holds {zone!r} twice; give each zone once")
    regions = {region_of(zone) for zone in cloud.zones}
    if len(regions) == 1:
        return regions.pop()
    raise SettingsError(
        f"setting cloud.zones is {list(cloud.zones)}; give zones of one region, for example "
        '["us-central1-a", "us-central1-b"]: a network, its addresses and quotas belong to a region'
    )


def to_yaml(definition: dict[str, Any]) -> str:
    """The text of the file."""
    sections = (
        yaml.safe_dump({key: value}, sort_keys=False, width=100, default_flow_style=None)
        if key in _LAUNCHER_KEYS
        else yaml.safe_dump({key: value}, sort_keys=False, width=100)
        for key, value in definition.items()
    )
    return _HEADER + "".join(sections)


def write_cluster_file(settings: Settings, path: Path) -> bool:
    """Write the file that the settings mean; says whether that changed it.

    Raises:
        SettingsError: the settings mean no cluster.
        ClusterError: the file cannot be written; an earlier one is as it was.
    """
    text = to_yaml(render(settings))
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return False
    temporary = path.with_name(f".{path.name}.new")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise ClusterError(
            f"{path} cannot be written: {error.strerror}; name a file in a folder that exists"
        ) from error
    return True


def is_rendered(path: Path) -> bool:
    """Whether a file begins as those that `write_cluster_file` writes; also where there is none."""
    if not path.is_file():
        return True
    with path.open(encoding="utf-8", errors="replace") as file:
        return RENDERED in file.read(len(_HEADER))


def difference(settings: Settings, path: Path) -> str | None:
    """Where a file differs from what the settings mean, as `file:line: ...`; None: nowhere."""
    if not path.is_file():
        return f"{path} does not exist"
    wanted = to_yaml(render(settings)).splitlines()
    found = path.read_text(encoding="utf-8", errors="replace").splitlines()
    longest = max(len(wanted), len(found))
    for index in range(longest):
        here = found[index] if index < len(found) else "(the end)"
        there = wanted[index] if index < len(wanted) else "(the end)"
        if here != there:
            return f"{path}:{index + 1}: {here.strip()!r}; the settings mean {there.strip()!r}"
    return None
