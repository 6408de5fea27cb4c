"""Stand-ins of what a VM's agent talks to: the head's GCS, and `ray start`."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ray.exceptions import RpcError

NODE_ID = bytes(range(28))

# Makes a raylet (a process of that name, below itself) and stays when it is gone, as Ray's does.
_RAY = """#!/bin/bash
echo "$$ $*" >>{folder}/ray-runs
env -0 >{folder}/ray-environment
(($(wc -l <{folder}/ray-runs) <= $(cat {folder}/refusals))) && exit 3
{folder}/raylet -c 'read -t 60 <>{folder}/fifo' raylet --node_id={node} &
echo $! >{folder}/raylet-pid
wait
exec sleep 60
"""


@dataclass
class FakeGcs:
    """The calls of Ray's `GcsClient` that the agent makes."""

    node_name: str
    is_reachable: bool = True
    node_is_alive: bool = True
    failing_drains: int = 0
    """So many drains lose their answer, having had their effect."""
    stored: dict[bytes, bytes] = field(default_factory=dict)
    drains: list[tuple[str, int, str, int]] = field(default_factory=list)

    def connect(self, address: str) -> FakeGcs:
        if not self.is_reachable:
            raise ConnectionRefusedError(111, "nothing listens")
        return self

    def _answer(self) -> None:
        if not self.is_reachable:
            raise RpcError("the head is gone")

    def internal_kv_put(
        self, key: bytes, value: bytes, overwrite: bool, namespace: bytes, timeout: float
    ) -> int:
        self._answer()
        assert overwrite
        self.stored[key] = value
        return 1

    def internal_kv_keys(self, prefix: bytes, namespace: bytes, timeout: float) -> list[bytes]:
        self._answer()
        return [key for key in self.stored if key.startswith(prefix)]

    def internal_kv_multi_get(
        self, keys: list[bytes], namespace: bytes, timeout: float
    ) -> dict[bytes, bytes]:
        self._answer()
        return {key: self.stored[key] for key in keys}

    def internal_kv_del(self, key: bytes, prefix: bool, namespace: bytes, timeout: float) -> int:
        self._answer()
        return 1 if self.stored.pop(key, None) is not None else 0

    def get_all_node_info(self, timeout: float) -> dict[str, Any]:
        self._answer()
        found = SimpleNamespace(
            instance_id=self.node_name, state=0 if self.node_is_alive else 1, node_id=NODE_ID
        )
        # of an earlier boot, and not yet missed
        old = SimpleNamespace(instance_id=self.node_name, state=0, node_id=b"x" * 28)
        return {"old": old, "ours": found}

    def get_draining_nodes(self, timeout: float) -> dict[str, int]:
        self._answer()
        return {node: deadline for node, _, _, deadline in self.drains}

    def drain_node(
        self, node_id: str, reason: int, message: str, deadline_ms: int, timeout: float
    ) -> tuple[bool, str]:
        self._answer()
        self.drains.append((node_id, reason, message, deadline_ms))
        if self.failing_drains:
            self.failing_drains -= 1
            raise RpcError("deadline exceeded")
        return True, ""

    def kinds(self) -> list[str]:
        """The kinds of the events that a VM has reported."""
        document = json.loads(self.stored.get(self.node_name.encode(), b'{"events": []}'))
        return [event["kind"] for event in document["events"]]


class FakeRay:
    """A folder with `ray`, `python` and a raylet; notes what was run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.ray = self._program("ray", _RAY.format(folder=folder, node=NODE_ID.hex()))
        self._program("python", f'#!/bin/bash\nexec {sys.executable} "$@"\n')
        self.refuse(0)
        os.mkfifo(folder / "fifo")
        # a process is named by its file: a shell of this name waits for what nobody writes
        self.raylet = folder / "raylet"
        self.raylet.write_bytes(Path("/bin/bash").read_bytes())
        self.raylet.chmod(0o755)

    def _program(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text, encoding="utf-8")
        path.chmod(0o755)
        return path

    def refuse(self, count: int) -> None:
        """Let the first starts fail."""
        (self.folder / "refusals").write_text(str(count), encoding="ascii")

    def runs(self) -> list[str]:
        """The arguments of each `ray`, with its process id before."""
        path = self.folder / "ray-runs"
        return path.read_text(encoding="utf-8").splitlines() if path.exists() else []

    def raylet_pid(self) -> int:
        return int((self.folder / "raylet-pid").read_text(encoding="ascii"))

    def environment(self) -> dict[str, str]:
        """The variables of the last `ray`."""
        text = (self.folder / "ray-environment").read_text(encoding="utf-8")
        return dict(line.split("=", 1) for line in text.split("\0") if line)

    def forget(self) -> None:
        """As if nothing had run."""
        for name in ("ray-runs", "raylet-pid", "ray-environment"):
            (self.folder / name).unlink(missing_ok=True)
