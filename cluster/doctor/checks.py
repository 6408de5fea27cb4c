"""What `ironcliw doctor` checks of this machine: its versions, files, ports and system."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from cluster.config import CLUSTER_FILE, difference
from cluster.doctor.network import NO_WORKERS
from cluster.doctor.probes import Probes
from cluster.doctor.report import Check, error, not_needed, ok, warning
from cluster.environment import GIBIBYTE, recommended_profile
from cluster.head.ports import head_ports, why_no_listening
from cluster.head.ray_environment import head_environment, token_path
from cluster.keep_warm import KeepWarm
from ironcliw.errors import SettingsError
from ironcliw.settings import Settings

# Ray refuses to spill objects and warns when a disk is 95 % full; a model's files take a few GB.
LOW_DISK_BYTES = 10 * GIBIBYTE
FULL_DISK_BYTES = 2 * GIBIBYTE
_MULTI_NODE_VARIABLE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"


def check_machine(settings: Settings, probes: Probes) -> Check:
    """What this machine is, and what it should be used for."""
    environment = probes.environment()
    profile = recommended_profile(environment)
    return ok("machine", f"{environment.describe()}; use: {profile.name} ({profile.reason})")


def check_versions(settings: Settings, probes: Probes) -> Check:
    """Ray is installed, in the version that the project was built for."""
    found, wanted, python = probes.installed("ray"), probes.required("ray"), probes.python()
    if found is None:
        return error("versions", "Ray is not installed", "pip install 'ironcliw[local]'")
    if wanted is not None and found != wanted:
        return error(
            "versions",
            f"Ray {found}; the project needs {wanted}, on the head and on every worker",
            f"pip install 'ray=={wanted}'",
        )
    return ok("versions", f"Python {python}, Ray {found}")


def check_cluster_file(settings: Settings, probes: Probes) -> Check:
    """`ray_cluster.yaml` in this folder is what the settings mean."""
    name, path = "cluster file", Path(CLUSTER_FILE)
    if not path.is_file():
        return not_needed(name, f"no {CLUSTER_FILE} in this folder")
    try:
        found = difference(settings, path)
    except SettingsError as problem:
        return error(name, problem.message, "correct the setting that is named")
    if found is None:
        return ok(name, f"{path} is what the settings mean")
    refused = _refusal(path)
    if refused is not None:
        return error(name, refused, f"correct {path}, or render it anew: ironcliw cluster render")
    return warning(name, found, "ironcliw cluster render")


def _refusal(path: Path) -> str | None:
    """Why Ray, or our provider, would refuse the file."""
    # the schema is Ray's, and the file may lie beside a base install
    if importlib.util.find_spec("ray") is None:
        return None
    from cluster.config_check import read_cluster_file

    try:
        read_cluster_file(path)
    except SettingsError as problem:
        return problem.message
    return None


def check_ports(settings: Settings, probes: Probes) -> Check:
    """The ports of the head are free, unless its own head has them."""
    if probes.head_runs():
        return ok("ports", "held by the running head of this state directory")
    first, last = settings.cluster.worker_ports
    wanted = head_ports(settings)
    ports = [port for _, port in wanted.values()]
    named = {name: port for name, (_, port) in wanted.items()}
    twice = [f"{name} is {port}" for name, port in named.items() if ports.count(port) > 1]
    if twice:
        return error("ports", f"{', '.join(twice)}: given twice", "give each its own port")
    within = [f"{name} is {port}" for name, port in named.items() if first <= port <= last]
    if within:
        return error(
            "ports",
            f"{', '.join(within)}: within cluster.worker_ports, {first} to {last}",
            "give each its own port outside that range, or move the range",
        )
    taken = []
    for name, (host, port) in wanted.items():
        try:
            who = probes.listener(host, port)
        except OSError as problem:
            return error("ports", *why_no_listening(name, host, port, problem))
        if who:
            taken.append(f"{port} ({name}) by {who}")
    if taken:
        return error("ports", "taken: " + ", ".join(taken), "end what holds them, or change them")
    return ok("ports", ", ".join(map(str, ports)) + " are free")


def check_disk(settings: Settings, probes: Probes) -> Check:
    """There is room for state, logs, models and Ray's spilled objects."""
    places = (settings.state_dir, settings.ray_temp_dir)
    least, where = min((probes.free_bytes(path), str(path)) for path in places)
    found = f"{least / GIBIBYTE:.1f} GiB free at {where}"
    if least < FULL_DISK_BYTES:
        return error("disk", found, f"free at least {FULL_DISK_BYTES / GIBIBYTE:.0f} GiB there")
    if least < LOW_DISK_BYTES:
        return warning("disk", found, f"free {LOW_DISK_BYTES / GIBIBYTE:.0f} GiB before it is full")
    return ok("disk", found)


def check_token(settings: Settings, probes: Probes) -> Check:
    """The cluster's token is its owner's alone: whoever has it can run any code here."""
    path = token_path(settings)
    mode = probes.mode(path)
    if mode is None:
        return ok("token", f"{path} will be made by `ironcliw up`")
    if mode & 0o077:
        return error("token", f"{path} has mode {mode:04o}: others can use it", f"chmod 600 {path}")
    return ok("token", f"{path}, mode {mode:04o}")


def check_macos(settings: Settings, probes: Probes) -> Check:
    """What a Mac needs to be the head of other machines: Ray's switch, and to stay awake."""
    environment = probes.environment()
    if environment.system != "Darwin":
        return not_needed("macos", f"this is {environment.system}")
    if settings.cloud.project is None:
        return not_needed("macos", NO_WORKERS)
    if head_environment(settings, "")[_MULTI_NODE_VARIABLE] != "1":
        return error(
            "macos",
            f"cluster.node_ip is {settings.cluster.node_ip}: Ray on macOS stays alone with it",
            "set cluster.node_ip to this machine's address in the VPN",
        )
    if probes.variable(_MULTI_NODE_VARIABLE) != "1":
        return warning(
            "macos",
            f"{_MULTI_NODE_VARIABLE} is not 1 in this shell: drivers started here fail to connect",
            f"export {_MULTI_NODE_VARIABLE}=1",
        )
    if "PreventUserIdleSystemSleep 1" not in _squeezed(probes.output("pmset", "-g", "assertions")):
        return warning(
            "macos",
            "nothing keeps this Mac awake; asleep it loses its workers, which then power off",
            "caffeinate -dis &",
        )
    return ok("macos", "multi-node switch set, kept awake")


def check_keep_warm(settings: Settings, probes: Probes) -> Check:
    """The windows in which a worker stays can be read."""
    windows = settings.cloud.keep_warm
    if not windows or settings.cloud.project is None:
        return not_needed("keep warm", "no window is set" if not windows else NO_WORKERS)
    try:
        for window in windows:
            KeepWarm.parse(window)
    except SettingsError as problem:
        found, _, step = problem.message.partition("; ")
        return error("keep warm", found, step)
    return ok("keep warm", ", ".join(windows))


def _squeezed(text: str | None) -> str:
    return " ".join((text or "").split())
