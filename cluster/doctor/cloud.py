"""What `ironcliw doctor` checks of the cloud: access, project, image, quota, clock and money."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

from cluster.config import cloud_region
from cluster.doctor.network import NO_WORKERS, divide_listed
from cluster.doctor.probes import COMPUTE_ENDPOINT, Probes
from cluster.doctor.report import Check, State, error, not_needed, ok, warning
from cluster.gce.errors import GceError
from cluster.gce.session import is_test_bed
from cluster.machines import machine_type
from cluster.money.budget import SKEW_SECONDS, check_caps
from cluster.money.prices import PriceTable
from cluster.vm.image import PYTHON_LABEL, RAY_LABEL
from ironcliw.errors import IroncliwError, SettingsError
from ironcliw.setting_sections import CloudSettings
from ironcliw.settings import Settings

# A `Date` header has whole seconds, and the way there and back counts too.
_CLOCK_WARNING_SECONDS = 10.0
# Families whose regular vCPUs have a quota of their own; Spot ones share one.
# https://cloud.google.com/compute/resource-usage
_OWN_QUOTA = ("n2d", "n2", "c3", "t2d", "t2a")
FIRST = ("google client", "credentials", "project")
"""Where one of these fails, nothing after it can be asked."""
_ARM_FAMILIES = ("t2a-",)


def check_budget(settings: Settings, probes: Probes) -> Check:
    """The caps let a worker start at all."""
    if settings.cloud.project is None:
        return not_needed("budget", NO_WORKERS)
    prices = PriceTable.of(settings.budget)
    problem = check_caps(settings.budget, prices, settings.cloud)
    if problem is not None:
        return _from(problem, "budget")
    cloud = settings.cloud
    hourly = prices.hourly(cloud.machine_type, cloud.market, cloud.disk_gb, cloud.external_address)
    hours = settings.budget.month_usd / hourly
    return ok(
        "budget",
        f"{settings.budget.month_usd:.2f} USD a month: {hours:.0f} hours of a {cloud.market} "
        f"{cloud.machine_type} at {hourly:.4f}",
    )


def check_clock(settings: Settings, probes: Probes) -> Check:
    """Our clock agrees with the cloud's: by both are money counted and credentials dated."""
    if settings.cloud.project is None:
        return not_needed("clock", NO_WORKERS)
    url = settings.cloud.api_endpoint or COMPUTE_ENDPOINT
    offset = probes.clock_offset(url)
    if offset is None:
        step = "see whether this machine is online"
        return Check("clock", State.ERROR, f"{url} does not answer", step, passes=True)
    found = f"{abs(offset):.0f} s {'ahead of' if offset > 0 else 'behind'} {url}"
    step = "set the clock: sudo sntp -sS time.google.com (macOS), timedatectl set-ntp true (Linux)"
    if abs(offset) > SKEW_SECONDS:
        return error("clock", found, step)
    if abs(offset) > _CLOCK_WARNING_SECONDS:
        return warning("clock", found, step)
    return ok("clock", found)


def check_access(settings: Settings, probes: Probes) -> Iterator[Check]:
    """Library, credentials and project, and what is in the project if those are well."""
    client = _Client(probes)
    steps: dict[str, Callable[[], Check]] = {
        "google client": lambda: _library(probes),
        "credentials": lambda: _credentials(settings, probes),
        "project": lambda: _project(client),
        "zones": lambda: _zones(settings, client),
        "machine type": lambda: _machine_type(settings, client),
        "image": lambda: _image(settings, probes, client),
        "quota": lambda: _quota(settings, probes, client),
    }
    skipped = NO_WORKERS if settings.cloud.project is None else ""
    for name, step in steps.items():
        if skipped:
            yield not_needed(name, skipped)
            continue
        check = _answered(name, step)
        yield check
        if check.state is State.ERROR and name in FIRST:
            skipped = f"not looked at: put {name} right first"


class _Client:
    """The Compute client, made when it is first asked: making one can fail."""

    def __init__(self, probes: Probes) -> None:
        self._probes = probes
        self._client: Any = None

    def __call__(self) -> Any:
        if self._client is None:
            self._client = self._probes.compute()
        return self._client


def _answered(name: str, step: Callable[[], Check]) -> Check:
    """The check, or what kept it from being made."""
    try:
        return step()
    except GceError as problem:
        passes = problem.kind in ("unavailable", "rate")
        return dataclasses.replace(_from(problem, name), passes=passes)
    except IroncliwError as problem:
        return _from(problem, name)


def _from(problem: IroncliwError, name: str) -> Check:
    """An error's message as a check: ours end with what to do, after a semicolon."""
    found, _, step = problem.message.rpartition("; ")
    return error(name, found or step, step if found else "correct what the message names")


def _library(probes: Probes) -> Check:
    found = probes.installed("google-cloud-compute")
    if found is None:
        step = "pip install 'ironcliw[gcp]'"
        return error("google client", "google-cloud-compute is not installed", step)
    return ok("google client", f"google-cloud-compute {found}")


def _credentials(settings: Settings, probes: Probes) -> Check:
    if is_test_bed(settings.cloud.api_endpoint):
        return not_needed("credentials", "a test bed asks for none")
    found = probes.credentials()
    detail = " ".join(found.detail.split())
    if found.problem == "offline":
        offline = f"Google does not answer ({detail})"
        return Check(
            "credentials",
            State.ERROR,
            offline,
            "see whether this machine is online",
            passes=True,
        )
    if found.problem:
        return error(
            "credentials", f"{found.problem} ({detail})", "gcloud auth application-default login"
        )
    return ok("credentials", detail)


def _project(client: _Client) -> Check:
    return ok("project", client().project().name)


def _zones(settings: Settings, client: _Client) -> Check:
    wanted = settings.cloud.zones
    region = cloud_region(settings.cloud)
    known = {zone.name: zone.is_up for zone in client().zones()}
    absent = [zone for zone in wanted if zone not in known]
    if absent:
        near = sorted(name for name in known if name.startswith(region))
        return error(
            "zones",
            f"there is no {', '.join(absent)}",
            f"correct cloud.zones: {', '.join(near) or 'no zone is in ' + region}",
        )
    down = [zone for zone in wanted if not known[zone]]
    if len(down) == len(wanted):
        return error(
            "zones", f"all are down: {', '.join(down)}", "set cloud.zones to another region"
        )
    if down:
        return warning("zones", f"down: {', '.join(down)}", "wait; the others are used meanwhile")
    return ok("zones", ", ".join(wanted))


def _machine_type(settings: Settings, client: _Client) -> Check:
    name, zones = settings.cloud.machine_type, settings.cloud.zones
    lacking = [zone for zone in zones if client().offers(zone, name) is None]
    if len(lacking) == len(zones):
        return error(
            "machine type", f"no zone of cloud.zones sells {name}", "correct cloud.machine_type"
        )
    if lacking:
        step = "take them out of cloud.zones"
        return warning("machine type", f"{name} is not sold in {', '.join(lacking)}", step)
    found = machine_type(name)
    return ok("machine type", f"{name}: {found.cpus} vCPUs, {found.memory_gb:g} GB")


def _image(settings: Settings, probes: Probes, client: _Client) -> Check:
    cloud, image = settings.cloud, client().describe_image()
    needed = "ARM64" if cloud.machine_type.startswith(_ARM_FAMILIES) else "X86_64"
    if image.status != "READY":
        return error("image", f"{image.name} is {image.status}", "wait, or choose another image")
    if image.architecture not in ("", "ARCHITECTURE_UNSPECIFIED", needed):
        return error(
            "image",
            f"{image.name} is for {image.architecture}, a {cloud.machine_type} is {needed}",
            "set cloud.image to one of that architecture",
        )
    if image.disk_gb > cloud.disk_gb:
        return error(
            "image",
            f"{image.name} needs a disk of {image.disk_gb} GB, cloud.disk_gb is {cloud.disk_gb}",
            f"set cloud.disk_gb = {image.disk_gb}",
        )
    if cloud.image_is_baked:
        return _baked(probes, image)
    if image.is_deprecated:
        return warning("image", f"{image.name} is deprecated", "set cloud.image to its successor")
    return ok("image", f"{image.name}; a worker installs Python, Ray and the pins of this head")


def _baked(probes: Probes, image: Any) -> Check:
    """A baked image holds this head's Python, to the patch level as Ray demands, and its Ray."""
    ours = {PYTHON_LABEL: probes.python(), RAY_LABEL: probes.installed("ray") or "none"}
    labels = {key: image.labels.get(key, "").replace("-", ".") for key in ours}
    unknown = [key for key, value in labels.items() if not value]
    if unknown:
        given = ",".join(f"{key}={value.replace('.', '-')}" for key, value in ours.items())
        return warning(
            "image",
            f"{image.name} does not say what it holds: no label {', '.join(unknown)}",
            f"if it agrees: gcloud compute images add-labels {image.name} --labels={given}",
        )
    parts = {PYTHON_LABEL: 2 if probes.match_level() == "minor" else 3, RAY_LABEL: 3}
    wrong = [
        f"{key} {labels[key]}, here {ours[key]}"
        for key, count in parts.items()
        if labels[key].split(".")[:count] != ours[key].split(".")[:count]
    ]
    if wrong:
        return error(
            "image",
            f"{image.name} differs from this head: {'; '.join(wrong)}",
            "bake the image anew, or run the head with its versions: a worker of it would leave",
        )
    return ok("image", f"{image.name}, Python {labels[PYTHON_LABEL]}, Ray {labels[RAY_LABEL]}")


def _quota(settings: Settings, probes: Probes, client: _Client) -> Check:
    """There is quota for as many workers as the settings allow, those that run included."""
    cloud = settings.cloud
    quotas = client().quotas(cloud_region(cloud))
    running = sum(vm.is_live for vm in divide_listed(settings, probes, client())[0])
    room, tightest = math.inf, ""
    for metric, each in _needs(cloud, quotas).items():
        if metric in quotas and quotas[metric].free // each < room:
            room = quotas[metric].free // each
            tightest = f"{metric}: {quotas[metric].usage:g} of {quotas[metric].limit:g} used"
    wanted = cloud.max_workers
    if running + room >= wanted:
        return ok("quota", f"for {wanted} workers ({tightest or 'no limit is known'})")
    step = (
        "ask for more in the console (IAM & Admin > Quotas, filter "
        f"{tightest.partition(':')[0]} and {cloud_region(cloud)}), or lower cloud.max_workers"
    )
    found = f"for {running + room:g} of {wanted} workers ({tightest})"
    return (warning if running + room else error)("quota", found, step)


def _needs(cloud: CloudSettings, quotas: Any) -> dict[str, float]:
    """What one worker takes of each quota.

    Spot machines take from PREEMPTIBLE_CPUS where the project was granted any, else from the
    regular quota: https://cloud.google.com/compute/resource-usage#preemptible-quotas
    """
    family = cloud.machine_type.partition("-")[0]
    cpus = f"{family.upper()}_CPUS" if family in _OWN_QUOTA else "CPUS"
    preemptible = quotas.get("PREEMPTIBLE_CPUS")
    if cloud.market == "spot" and preemptible is not None and preemptible.limit > 0:
        cpus = "PREEMPTIBLE_CPUS"
    try:
        count = machine_type(cloud.machine_type).cpus
    except IroncliwError as problem:
        raise SettingsError(f"setting cloud.machine_type: {problem.message}") from problem
    needs: dict[str, float] = {cpus: count, "INSTANCES": 1, "DISKS_TOTAL_GB": cloud.disk_gb}
    if cloud.external_address:
        needs["IN_USE_ADDRESSES"] = 1
    return needs
