"""A smoke run of one Spot worker in a real project of GCP, for some cents.

    make smoke-gcp                      # a task on a worker
    make smoke-gcp PREEMPT=1            # and a preemption, by simulate-maintenance-event

Needs a project and credentials, and refuses without them, with what to do. What it may cost is
bounded by the settings it runs with, not by its good behaviour: 1 USD a day, one worker (two with
PREEMPT=1) that GCE itself deletes after half an hour. Its head has a state directory, a ledger and
a cluster's name of its own; it takes the ports of your settings, so no other head may run.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from cluster.gce.client import ComputeClient
from cluster.head.ray_environment import token_path
from cluster.head.record import read_token, write_private
from cluster.machines import Vm
from cluster.testing.smoke import Say, Smoke, finish, refuse_what_is_wrong
from ironcliw.console import write_line
from ironcliw.errors import ClusterError, IroncliwError
from ironcliw.setting_sections import CloudSettings
from ironcliw.settings import Settings, config_path, load_settings

CAP_USD = 1.0
MAX_RUN_HOURS = 0.5
_GONE_SECONDS = 180.0
_POLL_SECONDS = 2.0
_TASK = """\
import os, platform, ray
ray.init()
@ray.remote(num_cpus=1, label_selector={"ray.io/market-type": "spot"})
def where():
    return os.environ["RAY_CLOUD_INSTANCE_ID"], platform.machine()
print("ran on", *ray.get(where.remote()))
"""
_MOVING = """\
import os, time, ray
ray.init()
@ray.remote(
    num_cpus=1, max_restarts=1, max_task_retries=-1, label_selector={"ray.io/market-type": "spot"}
)
class Place:
    def name(self):
        return os.environ["RAY_CLOUD_INSTANCE_ID"]
place = Place.remote()
first = ray.get(place.name.remote())
open("@FILE@", "w").write(first)
last = time.time()
while (now := ray.get(place.name.remote())) == first:
    last = time.time()
    time.sleep(0.2)
print("moved from", first, "to", now, "in", round(time.time() - last, 1), "s")
"""
Preempt = Callable[[CloudSettings, Vm], None]


def bounded_environment(settings: Settings, *, workers: int) -> dict[str, str]:
    """Settings that bound what the run can cost.

    Args:
        settings: The user's.
        workers: Most at once.
    """
    # the user's file may lie in the state directory, and the run has another one
    path = config_path()
    return {
        **({} if path is None else {"IRONCLIW_CONFIG": str(path)}),
        "IRONCLIW_STATE_DIR": str(settings.state_dir / "smoke-gcp"),
        "IRONCLIW_CLOUD__CLUSTER_NAME": f"{settings.cloud.cluster_name[:48]}-smoke",
        "IRONCLIW_CLOUD__MAX_WORKERS": str(workers),
        "IRONCLIW_CLOUD__MAX_RUN_HOURS": str(MAX_RUN_HOURS),
        "IRONCLIW_CLOUD__IDLE_MINUTES": "2",
        "IRONCLIW_CLOUD__KEEP_WARM": "[]",
        "IRONCLIW_BUDGET__DAY_USD": str(min(CAP_USD, settings.budget.day_usd or CAP_USD)),
        "IRONCLIW_SERVE__PINNED_MODELS": "[]",
    }


def copy_token(settings: Settings, bounded: Settings) -> None:
    """Give the run's head the token that its workers will fetch from Secret Manager.

    Without this it would make one of its own, and let no worker in.

    Args:
        settings: The user's.
        bounded: Those of the run.

    Raises:
        ClusterError: cloud.token_secret is set, and the user's head has no token.
    """
    secret = settings.cloud.token_secret
    if secret is None:
        return
    path = token_path(settings)
    token = read_token(path)
    if token is None:
        raise ClusterError(
            f"cloud.token_secret is {secret!r}, and there is no token in {path} that a worker "
            f"would find there: run `ironcliw up && ironcliw down`, which makes one, then gcloud "
            f"secrets versions add {secret} --data-file={path}"
        )
    write_private(token_path(bounded), token)


def maintenance_event(cloud: CloudSettings, vm: Vm) -> None:
    """Have GCE take a Spot machine back.

    https://cloud.google.com/compute/docs/instances/simulating-host-maintenance. It is `gcloud`
    that asks, as the user: the head's account may not.

    Raises:
        ClusterError: gcloud is absent or refuses.
    """
    words = ["gcloud", "compute", "instances", "simulate-maintenance-event", vm.name]
    try:
        done = subprocess.run(
            [*words, f"--zone={vm.zone}", f"--project={cloud.project}", "--quiet"],
            capture_output=True,
            text=True,
            timeout=120,
        )
    except OSError as problem:
        raise ClusterError(f"gcloud: {problem}; install it, or leave out PREEMPT=1") from problem
    if done.returncode:
        raise ClusterError(f"{' '.join(words)}: {done.stderr.strip()[-500:]}")


def smoke_gcp(
    smoke: Smoke, settings: Settings, *, preempt: Preempt | None = None, boot_seconds: float = 900.0
) -> int:
    """The run; returns the exit code.

    Args:
        smoke: With `bounded_environment`, and more changes for a test bed.
        settings: What those changes make of the user's settings.
        preempt: Takes a machine back; None: none is.
        boot_seconds: Most that a machine may take to join: without a baked image it installs.
    """
    smoke.introduce(f"a smoke run of a worker in {settings.cloud.project}")
    client = ComputeClient(settings.cloud)
    try:
        with smoke.step("doctor") as seen:
            seen += refuse_what_is_wrong(smoke)
        try:
            with smoke.step("up") as seen:
                seen.append(f"ready in {smoke.json('up')['seconds']} s")
            _work(smoke, settings, client, preempt, boot_seconds)
        finally:
            _leave_nothing(smoke, settings, client)
    except ClusterError:
        pass  # told by its step
    return finish(smoke)


def _work(
    smoke: Smoke,
    settings: Settings,
    client: ComputeClient,
    preempt: Preempt | None,
    boot_seconds: float,
) -> None:
    folder = settings.state_dir / "job"
    with smoke.step("a task on a worker") as seen:
        seen.append(_line(smoke.job(folder, _TASK, seconds=boot_seconds), "ran on"))
    if preempt is None:
        return
    with smoke.step("a preemption") as seen:
        marker = folder.parent / "place"
        marker.unlink(missing_ok=True)
        told: list[str] = []
        program = _MOVING.replace("@FILE@", str(marker))
        job = threading.Thread(
            target=lambda: told.append(_attempt(smoke, folder, program, 2 * boot_seconds))
        )
        job.start()
        name = _wait_for(lambda: marker.is_file() and marker.read_text("utf-8"), boot_seconds, job)
        [vm] = [one for one in client.list_vms(settings.cloud.cluster_name) if one.name == name]
        preempt(settings.cloud, vm)
        job.join()
        seen.append(_line(told[0], "moved from"))


def _attempt(smoke: Smoke, folder: Path, program: str, seconds: float) -> str:
    """What a job prints, or why it failed: it runs in a thread, whose errors nobody would see."""
    try:
        return smoke.job(folder, program, seconds=seconds)
    except ClusterError as problem:
        return str(problem)


def _wait_for(condition: Callable[[], str | bool], seconds: float, job: threading.Thread) -> str:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and job.is_alive():
        if found := condition():
            return str(found)
        time.sleep(_POLL_SECONDS)
    raise ClusterError(f"the actor was not on a worker within {seconds:g} s")


def _line(text: str, start: str) -> str:
    """The line that begins so.

    Raises:
        ClusterError: there is none.
    """
    found = [line for line in text.splitlines() if line.startswith(start)]
    if not found:
        raise ClusterError(f"the job did not print {start!r}:\n{text[-1500:]}")
    return found[-1]


def _leave_nothing(smoke: Smoke, settings: Settings, client: ComputeClient) -> None:
    with smoke.step("down") as seen:
        seen.append(f"{smoke.json('down')['ended_processes']} processes ended")
    with smoke.step("no machine is left") as seen:
        cluster = settings.cloud.cluster_name
        deadline = time.monotonic() + _GONE_SECONDS
        while left := client.list_vms(cluster):
            if time.monotonic() > deadline:
                names = ", ".join(f"{vm.name} in {vm.zone} ({vm.status})" for vm in left)
                raise ClusterError(f"still there: {names}; gcloud compute instances delete")
            time.sleep(_POLL_SECONDS)
        seen.append(f"of cluster {cluster}")
    with smoke.step("cost") as seen:
        seen.append(smoke.ironcliw("cost").strip())


def main(arguments: Sequence[str] | None = None, say: Say = write_line) -> int:
    """Run as `python -m cluster.testing.smoke_gcp`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preempt", action="store_true", help="have the machine taken back")
    given = parser.parse_args(arguments)
    settings = load_settings()
    if settings.cloud.project is None:
        say(
            "not begun: cloud.project is unset. Make a project with billing, then\n"
            "  terraform apply in cluster/deploy/terraform, which prints the settings to set\n"
            "  gcloud auth application-default login\n"
            "  ironcliw doctor"
        )
        return 2
    changes = bounded_environment(settings, workers=2 if given.preempt else 1)
    try:
        bounded = load_bounded(settings, changes)
        copy_token(settings, bounded)
    except (IroncliwError, OSError) as problem:
        say(f"not begun: {problem}")
        return 2
    smoke = Smoke(changes, say)
    return smoke_gcp(smoke, bounded, preempt=maintenance_event if given.preempt else None)


def load_bounded(settings: Settings, changes: Mapping[str, str]) -> Settings:
    """The settings that the commands of the run will have."""
    cloud = {
        "cluster_name": changes["IRONCLIW_CLOUD__CLUSTER_NAME"],
        "max_workers": int(changes["IRONCLIW_CLOUD__MAX_WORKERS"]),
        "max_run_hours": float(changes["IRONCLIW_CLOUD__MAX_RUN_HOURS"]),
    }
    day = float(changes["IRONCLIW_BUDGET__DAY_USD"])
    return settings.model_copy(
        update={
            "state_dir": Path(changes["IRONCLIW_STATE_DIR"]),
            "cloud": settings.cloud.model_copy(update=cloud),
            "budget": settings.budget.model_copy(update={"day_usd": day}),
        }
    )


if __name__ == "__main__":
    sys.exit(main())
