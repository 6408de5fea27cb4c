from __future__ import annotations

import base64
import json
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.testing.fake_metadata import TOKEN
from cluster.testing.http_server import HttpServer, Request
from cluster.vm.startup import WorkerFacts, metadata, startup_script
from ironcliw.errors import SettingsError
from tests.unit.cluster.vm_boot import (
    CLOUD,
    FACTS,
    HEAD,
    LABELS,
    NAME,
    SECRET,
    SPY,
    VERSIONS,
    Vm,
)


@pytest.mark.parametrize("vpn", ["none", "tailscale", "wireguard"])
@pytest.mark.parametrize("baked", [True, False])
def test_the_script_is_bash(vpn: str, baked: bool) -> None:
    cloud = CLOUD.model_copy(update={"vpn": vpn, "vpn_secret": "v", "image_is_baked": baked})
    script = startup_script(cloud, HEAD, FACTS)
    subprocess.run(["/bin/bash", "-n"], input=script, text=True, check=True)
    assert script.startswith("#!/bin/bash\n")
    assert "set -x" not in script


def test_no_secret_is_in_what_everybody_may_read() -> None:
    found = metadata(CLOUD, HEAD, FACTS)
    assert found.pop("ironcliw-token") == SECRET
    assert SECRET not in json.dumps(found)
    assert SECRET not in repr(FACTS)
    named = metadata(CLOUD.model_copy(update={"token_secret": "t"}), HEAD, FACTS)
    assert "ironcliw-token" not in named
    assert SECRET not in json.dumps(named)


@pytest.mark.parametrize(("given", "told"), [(120, "120"), (30, "30"), (0, "30")])
def test_the_notice_that_was_ordered_is_told(given: int, told: str) -> None:
    cloud = CLOUD.model_copy(update={"notice_seconds": given})
    assert metadata(cloud, HEAD, FACTS)["ironcliw-notice-seconds"] == told


def test_what_is_installed_is_what_the_head_has() -> None:
    found = metadata(CLOUD.model_copy(update={"image_is_baked": False}), HEAD, FACTS)
    assert found["ironcliw-requirements"] == "ray[serve]==2.60.0\ntorch==2.13.0\n"
    assert "ironcliw-requirements" not in metadata(CLOUD, HEAD, FACTS)


@pytest.mark.parametrize(
    ("changes", "facts", "message"),
    [
        ({"vpn": "tailscale"}, FACTS, r"cloud\.vpn is 'tailscale'.*set cloud\.vpn_secret"),
        ({"project": None, "token_secret": "t"}, FACTS, r"set cloud\.project"),
        ({}, WorkerFacts("spot", {}, {}, VERSIONS), r"needs Ray's token.*cloud\.token_secret"),
        ({}, WorkerFacts("spot", {}, {"a": "x" * 300_000}, VERSIONS, SECRET), r"more than 262144"),
    ],
)
def test_settings_that_cannot_work(
    changes: dict[str, object], facts: WorkerFacts, message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        metadata(CLOUD.model_copy(update=changes), HEAD, facts)


def test_a_boot_with_a_baked_image(vm: Vm) -> None:
    vm.create()
    code, console = vm.boot(vm.preempt_when_ray_runs)
    assert code == 0, console
    assert '"kind": "preempted"' in console
    assert '"kind": "power_off"' in console
    assert vm.arguments().splitlines()[-1] == "poweroff now "
    assert vm.arguments().count("poweroff") == 1
    expected = "start --address 127.0.0.1:9 --node-ip-address 10.77.0.2 --disable-usage-stats"
    assert expected + " --log-color false --block --num-cpus 1" in vm.ray.runs()[0]

    token = vm.root / "run/ironcliw/token"
    assert token.read_text(encoding="ascii") == SECRET
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert SECRET not in console
    assert SECRET not in vm.arguments()
    assert SECRET not in (vm.root / "run/ironcliw/agent.sh").read_text(encoding="utf-8")
    assert SECRET not in json.dumps(vm.ray.environment())
    check_environment(vm)


def check_environment(vm: Vm) -> None:
    found = vm.ray.environment()
    assert json.loads(found.pop("RAY_OVERRIDE_RESOURCES")) == {"CPU": 4, "spot": 1}
    assert json.loads(found.pop("RAY_OVERRIDE_LABELS")) == LABELS
    run = vm.root / "run/ironcliw"
    found.pop("RAY_CLIENT_MODE", None)  # the agent's own import of ray sets it, before or after
    assert {
        key: value for key, value in found.items() if key.startswith(("RAY_", "IRONCLIW_"))
    } == {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(run / "token"),
        "RAY_CLOUD_INSTANCE_ID": NAME,
        "RAY_CLOUD_INSTANCE_TYPE_NAME": "e2-highmem-4",
        "RAY_DEFAULT_PYTHON_VERSION_MATCH_LEVEL": "minor",
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
        "RAY_NODE_TYPE_NAME": "spot",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_gcs_rpc_server_reconnect_timeout_s": "420",
        "RAY_object_manager_pull_timeout_ms": "2000",
        "RAY_enable_worker_prestart": "1",
        "RAY_worker_niceness": "0",
        "IRONCLIW_HANDOVER_DIR": str(run / "handover"),
    }
    assert found["PATH"].split(":")[0] == str(vm.ray.folder)


def test_a_second_boot_begins_anew(vm: Vm) -> None:
    vm.create()
    vm.boot(vm.preempt_when_ray_runs)
    assert (vm.root / "run/ironcliw/handover/notice.json").exists()
    vm.server.update({"instance/preempted": "FALSE"})
    vm.ray.forget()

    def look_then_preempt() -> None:
        ends = time.monotonic() + 100.0
        while not vm.ray.runs():
            assert time.monotonic() < ends
            time.sleep(0.02)
        assert not (vm.root / "run/ironcliw/handover/notice.json").exists()
        vm.preempt_when_ray_runs()

    code, console = vm.boot(look_then_preempt)
    assert code == 0, console


def test_a_token_of_secret_manager(
    vm: Vm, secrets: tuple[HttpServer, dict[str, str], list[Request]]
) -> None:
    server, stored, asked = secrets
    stored["ray-token"] = SECRET + "\n"
    vm.environment["IRONCLIW_SECRETS_URL"] = server.url + "/v1"
    vm.create(CLOUD.model_copy(update={"token_secret": "ray-token"}))
    code, console = vm.boot(vm.preempt_when_ray_runs)
    assert code == 0, console
    assert [request.path for request in asked] == [
        "/v1/projects/p-1/secrets/ray-token/versions/latest:access"
    ]
    assert (vm.root / "run/ironcliw/token").read_text(encoding="ascii") == SECRET
    for text in (SECRET, TOKEN, base64.b64encode(SECRET.encode()).decode()[:20]):
        assert text not in console
        assert text not in vm.arguments()


def test_a_secret_that_is_refused_ends_the_vm(
    vm: Vm, secrets: tuple[HttpServer, dict[str, str], list[Request]]
) -> None:
    vm.environment["IRONCLIW_SECRETS_URL"] = secrets[0].url + "/v1"
    vm.create(CLOUD.model_copy(update={"token_secret": "ray-token"}))
    code, console = vm.boot()
    assert code != 0
    assert "403" in console
    assert "startup failed with exit code" in console
    assert vm.arguments().splitlines()[-1] == "poweroff now "
    assert vm.ray.runs() == []


def test_the_key_of_the_vpn_is_a_file(
    vm: Vm, secrets: tuple[HttpServer, dict[str, str], list[Request]]
) -> None:
    server, stored, _ = secrets
    stored["vpn-key"] = "tskey-auth-123"
    vm.environment["IRONCLIW_SECRETS_URL"] = server.url + "/v1"
    vm.program("tailscale", f"cat {vm.root}/run/ironcliw/vpn-key >{vm.root}/seen; exit 0")
    vm.create(CLOUD.model_copy(update={"vpn": "tailscale", "vpn_secret": "vpn-key"}))
    code, console = vm.boot()
    key = vm.root / "run/ironcliw/vpn-key"
    assert f"tailscale up --auth-key=file:{key} --hostname={NAME}" in vm.arguments()
    assert (vm.root / "seen").read_text(encoding="ascii") == "tskey-auth-123"
    assert not key.exists()
    assert "tskey-auth-123" not in vm.arguments() + console
    # this machine has no such interface, which is what userspace mode looks like
    assert "tailscale runs without a kernel interface" in console
    assert code == 1


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda vm: vm.server.set_attribute("ironcliw-token", ""), "Ray's token is empty"),
        (lambda vm: vm.server.set_attribute("ironcliw-token", None), "404"),
        (lambda vm: (vm.ray.folder / "python").unlink(), "bake it anew"),
        (lambda vm: vm.root.write_text("", encoding="ascii"), "cannot create directory"),
    ],
    ids=["empty-token", "no-token", "empty-image", "no-disk"],
)
def test_a_vm_that_cannot_work_goes(vm: Vm, spoil: Callable[[Vm], object], message: str) -> None:
    vm.create()
    spoil(vm)
    code, console = vm.boot()
    assert code != 0
    assert message in console
    assert "powering off" in console
    assert vm.arguments().splitlines()[-1] == "poweroff now "
    assert vm.ray.runs() == []


def test_an_agent_that_fails_ends_the_vm(vm: Vm) -> None:
    vm.create()
    vm.server.set_attribute("ironcliw-agent-config", "damaged")
    code, console = vm.boot()
    assert code != 0
    assert "JSONDecodeError" in console
    assert vm.arguments().splitlines()[-1] == "poweroff now "


def test_a_machine_that_is_no_vm_is_left_alone(vm: Vm) -> None:
    vm.create()
    del vm.environment["IRONCLIW_POWER_OFF"]
    code, console = vm.boot()
    assert code == 2
    assert "no VM of Compute Engine" in console
    assert not vm.root.exists()
    assert vm.arguments() == ""


def test_without_an_image_the_heads_versions_are_installed(vm: Vm, tmp_path: Path) -> None:
    uv = tmp_path / "uv"
    uv.write_text(SPY.format(name="uv", log=vm.log, then="exit 0"), encoding="utf-8")
    uv.chmod(0o755)
    download = f'exec tar -czf "{vm.root}/opt/ironcliw/uv.tar.gz" -C {tmp_path} --xform=s,^,d/, uv'
    vm.program(
        "curl",
        f'[[ "$*" == *github.com* ]] && {download}\nexec /usr/bin/curl --retry 0 "$@"',
    )
    vm.create(CLOUD.model_copy(update={"image_is_baked": False}))
    code, console = vm.boot(vm.preempt_when_ray_runs)
    assert code == 0, console
    calls = [line for line in vm.arguments().splitlines() if line.startswith("uv ")]
    assert "venv --clear --managed-python --python 3.11.7" in calls[0]
    assert "--torch-backend cpu --constraints" in calls[1]
    # the second boot finds all of it
    vm.ray.forget()
    vm.server.update({"instance/preempted": "FALSE"})
    vm.boot(vm.preempt_when_ray_runs)
    assert vm.arguments().count("uv venv") == 1
