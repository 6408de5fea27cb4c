"""The script that bakes an image, with a `gcloud` that notes what it is asked."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cluster.vm.image import READY

ROOT = Path(__file__).resolve().parents[4]
SCRIPT = ROOT / "cluster" / "deploy" / "image" / "bake.sh"
# `status` and `console` are files of the test: what GCE says of the VM
_GCLOUD = """#!/bin/bash
printf '%s ' "$@" >>"{folder}/asked"
printf '\\n' >>"{folder}/asked"
case "$*" in
  *' instances create '*)
    mkdir "{folder}/metadata"
    for last; do :; done
    while [[ $1 != --metadata-from-file ]]; do shift; done
    IFS=, read -ra pairs <<<"$2"
    for pair in "${{pairs[@]}}"; do cp "${{pair#*=}}" "{folder}/metadata/${{pair%%=*}}"; done ;;
  *' instances describe '*) cat "{folder}/status" ;;
  *' get-serial-port-output '*) cat "{folder}/console" ;;
esac
"""


class Gcloud:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            "PATH": f"{folder}:{Path(sys.executable).parent}:/usr/bin:/bin",
            "HOME": str(folder),
            "IRONCLIW_CLOUD__PROJECT": "p-1",
            "IRONCLIW_CLOUD__SUBNETWORK": "projects/p-1/regions/us-central1/subnetworks/sub-1",
            "IRONCLIW_STATE_DIR": str(folder / "state"),
            "POLL_SECONDS": "0.01",
            "TMPDIR": str(folder / "tmp"),
        }
        (folder / "tmp").mkdir()
        program = folder / "gcloud"
        program.write_text(_GCLOUD.format(folder=folder), encoding="ascii")
        program.chmod(0o755)

    def bake(self, status: str, console: str) -> subprocess.CompletedProcess[str]:
        (self.folder / "status").write_text(status, encoding="ascii")
        (self.folder / "console").write_text(console, encoding="ascii")
        return subprocess.run(
            ["/bin/bash", str(SCRIPT), "worker-7"],
            env=self.environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=150,
        )

    def asked(self, what: str) -> str:
        lines = (self.folder / "asked").read_text(encoding="utf-8").splitlines()
        return next((line for line in lines if f" {what} " in line), "")


@pytest.fixture
def gcloud(tmp_path: Path) -> Gcloud:
    return Gcloud(tmp_path)


def test_an_image_is_made_and_the_vm_deleted(gcloud: Gcloud) -> None:
    done = gcloud.bake("RUNNING", f"booting\n{READY}\n")
    assert done.returncode == 0, done.stderr
    create = gcloud.asked("instances create")
    assert "--project p-1 --quiet instances create worker-7-bake --zone us-central1-a " in create
    assert "--network default --subnet sub-1 " in create
    # whoever dies: an hour is the most that it can cost, and it may do nothing in the project
    assert "--max-run-duration 1h --instance-termination-action DELETE" in create
    assert "--no-service-account --no-scopes" in create

    image = gcloud.asked("images create")
    python = ".".join(map(str, sys.version_info[:3])).replace(".", "-")
    assert f"--labels ironcliw-python={python},ironcliw-ray=2-" in image
    assert gcloud.asked("instances stop")
    assert gcloud.asked("instances delete").rstrip().endswith("worker-7-bake --zone us-central1-a")
    assert 'image = "projects/p-1/global/images/worker-7"\nimage_is_baked = true' in done.stdout

    given = {path.name: path.read_text(encoding="utf-8") for path in metadata(gcloud)}
    assert set(given) == {
        "startup-script",
        "ironcliw-requirements",
        "ironcliw-constraints",
        "ironcliw-kernels",
    }
    assert "\nray==2." in given["ironcliw-constraints"]
    assert list((gcloud.folder / "tmp").iterdir()) == []


def metadata(gcloud: Gcloud) -> list[Path]:
    return list((gcloud.folder / "metadata").iterdir())


def test_a_vm_that_failed_makes_no_image(gcloud: Gcloud) -> None:
    done = gcloud.bake("TERMINATED", "ironcliw: baking the image failed with exit code 7\n")
    assert done.returncode == 1
    assert "failed with exit code 7\nworker-7-bake is TERMINATED and not ready" in done.stderr
    assert not gcloud.asked("images create")
    assert gcloud.asked("instances delete")


def test_without_gcloud_it_says_where_to_get_it(gcloud: Gcloud) -> None:
    (gcloud.folder / "gcloud").unlink()
    gcloud.environment["PATH"] = str(gcloud.folder)
    done = gcloud.bake("", "")
    assert (done.returncode, "cloud.google.com/sdk" in done.stderr) == (1, True)


def test_without_a_project_nothing_is_asked(gcloud: Gcloud) -> None:
    del gcloud.environment["IRONCLIW_CLOUD__PROJECT"]
    done = gcloud.bake("RUNNING", READY)
    assert done.returncode != 0
    assert "set cloud.project" in done.stderr
    assert not (gcloud.folder / "asked").exists()
    assert list((gcloud.folder / "tmp").iterdir()) == []
