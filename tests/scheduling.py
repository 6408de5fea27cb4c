"""How pytest-xdist shares the tests out."""

from __future__ import annotations

from xdist.scheduler import LoadFileScheduling

_REAL_RAY = ("tests/integration/", "tests/chaos/")


class OneClusterAtATime(LoadFileScheduling):
    """As `--dist loadfile`; but whatever starts a real Ray is done by one worker, in turn.

    Such tests mostly wait, and leave a core to those of the other workers, which compute. Two of
    them at once would wait for each other.
    """

    def _split_scope(self, nodeid: str) -> str:
        return "real Ray" if nodeid.startswith(_REAL_RAY) else str(super()._split_scope(nodeid))
