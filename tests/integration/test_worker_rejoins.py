"""A worker on an address of its own outlives the head; needs root, for the namespaces.

Of the tests with real Ray in namespaces this is the quickest, and the one that is not `slow`: CI
runs it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import ROOT
from tests.requirements import need_namespaces

# a quiet machine needs one minute or two, a busy one was seen to need three and more
SECONDS = 1000

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(SECONDS + 50), pytest.mark.netns]

NAMESPACES = ("--net", "--pid", "--fork", "--kill-child", "--mount-proc", "--mount")


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> Any:
    need_namespaces()
    folder: Path = tmp_path_factory.mktemp("away")
    program = [sys.executable, "-m", "tests.integration.away_from_home", str(folder)]
    done = subprocess.run(
        ["unshare", *NAMESPACES, *program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_worker_rejoins_a_head_whose_power_was_cut(facts: Any) -> None:
    assert "taking on the state of the earlier head" in facts["told"]
    # the same process, with what it had in memory
    assert facts["after"] == {**facts["before"], "count": facts["before"]["count"] + 1}
    assert facts["worker_lives"]


def test_beyond_loopback_only_rays_own_services_and_metrics_listen(facts: Any) -> None:
    """Ray 2.60 binds its gRPC servers to every address once a node's address is not loopback.

    No setting for it was found. The metrics of its agent are plain HTTP on every address, too;
    those of the dashboard and of the autoscaler are turned off. This looks at who listens, not at
    what each port asks of a caller.
    """
    grpc = ("gcs_server", "raylet", "ray::")
    open_ports = [tuple(one) for one in facts["listening"]]
    assert open_ports
    for name, address, port in open_ports:
        assert address in ("::", "10.77.0.1") or port == facts["metrics_port"], (name, address)
        assert name.startswith(grpc), (name, address, port)
