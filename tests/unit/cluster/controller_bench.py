"""A controller, a fake cloud and a stand-in of the head, and a clock that a test moves."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from cluster.config import HEAD_INSTANCE_ID
from cluster.control.gcs_link import GcsLink
from cluster.control.loop import Controller
from cluster.head.head_id import head_id
from cluster.machines import VmRequest
from ironcliw.setting_sections import StoreSettings
from ironcliw.settings import load_settings
from tests.unit.cluster.clouds import HEAD, ORDER, Cloud
from tests.unit.cluster.fake_head import FakeHead, Immediate

CLUSTER_NAME = "ironcliw"


@dataclass
class Bench:
    """A controller and all around it."""

    cloud: Cloud
    head: FakeHead
    folder: Path
    controller: Controller
    order = ORDER

    def start(self, **cloud: Any) -> None:
        """A new controller, as after a crash."""
        budget = self.cloud.budget
        settings = load_settings().model_copy(
            update={
                "state_dir": self.folder,
                "cloud": self.cloud.settings.model_copy(update=cloud),
                "budget": budget,
                "store": StoreSettings(url=SecretStr(f"sqlite:///{self.cloud.store.name}")),
            }
        )
        self.controller = Controller(
            settings,
            self.cloud.store,
            self.cloud.client,
            GcsLink("127.0.0.1:1", HEAD_INSTANCE_ID, self.head.connect),
            clock=self.cloud.now,
            monotonic=self.cloud.clock,
            executor=Immediate,
        )

    def launch(self) -> VmRequest:
        """A worker, as the provider of the same head orders it."""
        head = replace(HEAD, head_id=head_id(self.folder))
        return self.cloud.launcher(cluster=CLUSTER_NAME, head=lambda: head).launch(ORDER)

    def run(self, seconds: float = 6.0) -> None:
        """Ticks of two seconds; of ten, for a long time."""
        step = 2 if seconds <= 30 else 10
        for _ in range(round(seconds / step)):
            self.cloud.clock.advance(step)
            self.controller.tick()

    def live(self) -> list[str]:
        return [vm.name for vm in self.cloud.client.list_vms(CLUSTER_NAME)]
