"""A real head on free ports, driven through the command line as a user would."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.testing.ports import free_ports, free_run

IRONCLIW = str(Path(sys.executable).with_name("ironcliw"))
ROOT = Path(__file__).resolve().parents[2]
DICTATION = "zwanzig-Boxkaempfer-jagen-Viktor-quer-um"


class Head:
    """One state directory, with ports and a Ray folder of its own."""

    def __init__(self, folder: Path, **settings: str) -> None:
        http, gcs, dashboard, metrics, agent = free_ports(5)
        workers = free_run(200)
        self.state = folder / "state"
        self.port = http
        self.url = f"http://127.0.0.1:{http}"
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("IRONCLIW_", "RAY_"))}
        self.environment = {
            **clean,
            "IRONCLIW_STATE_DIR": str(self.state),
            "IRONCLIW_SERVE__PORT": str(http),
            "IRONCLIW_CLUSTER__GCS_PORT": str(gcs),
            "IRONCLIW_CLUSTER__DASHBOARD_PORT": str(dashboard),
            "IRONCLIW_CLUSTER__METRICS_PORT": str(metrics),
            "IRONCLIW_CLUSTER__AGENT_PORT": str(agent),
            "IRONCLIW_CLUSTER__WORKER_PORTS": json.dumps([workers, workers + 199]),
            "IRONCLIW_CLUSTER__START_TIMEOUT_SECONDS": "120",
            # short: it becomes part of a socket's path
            "IRONCLIW_CLUSTER__TEMP_DIR": f"/tmp/icw-test-{http}",
            "HF_HUB_OFFLINE": "1",
            **settings,
        }

    def run(
        self, *words: str, timeout: float = 150, **changes: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [IRONCLIW, *words],
            env={**self.environment, **changes},
            cwd=ROOT,
            timeout=timeout,
            capture_output=True,
            text=True,
        )

    def remove(self) -> None:
        """Remove Ray's folder; the state is in pytest's own."""
        shutil.rmtree(self.environment["IRONCLIW_CLUSTER__TEMP_DIR"], ignore_errors=True)

    def ray_logs(self) -> list[Path]:
        """Of the worker processes of its latest session."""
        folder = Path(self.environment["IRONCLIW_CLUSTER__TEMP_DIR"]) / "session_latest" / "logs"
        return [path for path in folder.glob("worker-*") if path.is_file()]

    def json(self, *words: str) -> Any:
        result = self.run(*words, "--json")
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)


@pytest.fixture(scope="session")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """A head that runs for the whole session; tests leave it as they found it."""
    head = Head(
        tmp_path_factory.mktemp("head"),
        IRONCLIW_MODELS__SLOW__SOURCE="fake:4?seconds=3",
        IRONCLIW_MODELS__SLOW__TASK="embedding",
        # a text of 40 tokens, 50 ms each
        IRONCLIW_MODELS__DICTATION__SOURCE=f"fake:300?seconds=0.05&text={DICTATION}",
        IRONCLIW_MODELS__DICTATION__TASK="generation",
        IRONCLIW_MODELS__ENDLESS__SOURCE="fake:300?seconds=0.05&endless=1&context=4096",
        IRONCLIW_MODELS__ENDLESS__TASK="generation",
    )
    result = head.run("up")
    assert result.returncode == 0, result.stderr
    yield head
    stopped = head.run("down")
    assert stopped.returncode == 0, stopped.stderr
    head.remove()
