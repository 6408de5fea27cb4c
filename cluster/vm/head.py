"""The link from a worker VM to the head's GCS: reports, our node's id, the drain.

Shipped to the VM together with `agent.py`, so the standard library and Ray must do.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cluster.vm.facts import egress_bytes
from cluster.vm.lifecycle import Event, Kind

FORMAT_VERSION = 1
REPORT_NAMESPACE = b"ironcliw-vm"
_KEPT_EVENTS = 50
_RPC_SECONDS = 4.0
_RETRY_SECONDS = 1.0
_BEAT_SECONDS = 10.0


class Journal:
    """What happened on this VM: printed at once, and kept for the head."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.count = 0
        self.news = threading.Event()
        self._lock = threading.Lock()
        self._events: list[dict[str, Any]] = []

    def add(self, kind: str, message: str) -> None:
        """Note an event."""
        event = {"at": time.time(), "kind": kind, "message": message}
        sys.stdout.write(json.dumps({"vm": self.name, **event}) + "\n")
        sys.stdout.flush()
        with self._lock:
            self._events = [*self._events, event][-_KEPT_EVENTS:]
            self.count += 1
        self.news.set()

    def document(self, node_id: str) -> tuple[bytes, int]:
        """All of it as JSON, and the count of events; `egress_bytes` counts from the boot."""
        with self._lock:
            events, count = self._events, self.count
        document = {
            "format_version": FORMAT_VERSION,
            "at": time.time(),
            "node_id": node_id,
            "boot": Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip(),
            "egress_bytes": egress_bytes(Path("/proc/net/dev").read_text(encoding="ascii")),
            "events": events,
        }
        return json.dumps(document).encode(), count


def connect_to_gcs(address: str) -> Any:
    """A client of the GCS at `host:port`; raises OSError at once where nothing listens."""
    host, _, port = address.rpartition(":")
    socket.create_connection((host, int(port)), timeout=_RPC_SECONDS).close()
    from ray import _raylet

    return _raylet.GcsClient(address=address)  # type: ignore[attr-defined]  # compiled


class Head:
    """The head's GCS, asked from threads: a new client that finds no head blocks for 40 s."""

    def __init__(
        self,
        address: str,
        journal: Journal,
        tell: Callable[[Event], None],
        connect: Callable[[str], Any] = connect_to_gcs,
    ) -> None:
        self._address = address
        self._connect = connect
        self._journal = journal
        self._tell = tell
        self._client: Any = None
        self._expected = self._node_id = ""
        self._sent = 0
        self._answers = True

    def start(self) -> None:
        """Keep in touch from a thread of its own."""
        threading.Thread(target=self._keep_in_touch, name="head", daemon=True).start()

    def expect(self, node_id: str) -> None:
        """The raylet has started as this node; JOINED is told when the GCS knows it."""
        self._expected = node_id

    def _keep_in_touch(self) -> None:
        from ray.exceptions import RayError

        while True:
            pause = _BEAT_SECONDS if self._node_id else _RETRY_SECONDS
            try:
                self._beat()
            except (RayError, OSError) as error:
                self._client, pause = None, _RETRY_SECONDS
                if self._answers:
                    self._answers = False
                    self._journal.add("head_unreachable", str(error))
                # else news that cannot be sent would make this a loop without a pause
                self._journal.news.clear()
            self._journal.news.wait(pause)

    def _beat(self) -> None:
        if self._client is None:
            self._client = self._connect(self._address)
        if self._expected and not self._node_id:
            self._find_node()
        self._journal.news.clear()
        document, count = self._journal.document(self._node_id)
        name = self._journal.name.encode()
        self._client.internal_kv_put(name, document, True, REPORT_NAMESPACE, timeout=_RPC_SECONDS)
        self._sent, self._answers = count, True
        self._tell(Event(Kind.HEAD_ANSWERED))

    def _find_node(self) -> None:
        for node in self._client.get_all_node_info(timeout=_RPC_SECONDS).values():
            if node.node_id.hex() == self._expected and node.state == 0:  # ALIVE
                self._node_id = self._expected
                self._tell(Event(Kind.JOINED, self._node_id))

    def flush(self, seconds: float) -> None:
        """Wait until every event is sent, but not for ever."""
        ends = time.monotonic() + seconds
        while time.monotonic() < ends and self._sent < self._journal.count:
            time.sleep(0.05)

    def drain(self, message: str, seconds: float) -> None:
        """Ask for the drain in a thread; the answer comes as an event."""
        threading.Thread(target=self._drain, args=(message, seconds), daemon=True).start()

    def _drain(self, message: str, seconds: float) -> None:
        from ray.exceptions import RayError

        client = self._client
        if client is None:
            return self._tell(Event(Kind.DRAIN_FAILED, "the head cannot be reached"))
        try:
            accepted, answer = drain_once(client, self._node_id, message, seconds)
        except RayError as error:
            return self._tell(Event(Kind.DRAIN_FAILED, str(error)))
        self._tell(Event(Kind.DRAIN_ANSWERED, answer or message, accepted=accepted))


def drain_once(client: Any, node_id: str, message: str, seconds: float) -> tuple[bool, str]:
    """Drain a node unless it is draining: a second request overwrites the deadline of the first."""
    from ray.core.generated import autoscaler_pb2

    if node_id in client.get_draining_nodes(timeout=_RPC_SECONDS):
        return True, "it was draining already"
    # an idle termination could be refused; this reason cannot, and it makes restarts free
    reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")  # type: ignore[attr-defined]
    deadline_ms = int((time.time() + seconds) * 1000)
    accepted, answer = client.drain_node(
        node_id, reason, message, deadline_ms, timeout=_RPC_SECONDS
    )
    return bool(accepted), str(answer)
