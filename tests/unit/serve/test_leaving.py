"""A replica whose machine is taken back refuses in time, and a stream that it sends goes on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from serve.leaving import BREAK_SECONDS, REFUSE_SECONDS, Leaving
from serve.variants import ReplicaLostError

END = 1000.0


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def announce(folder: Path) -> None:
    notice = {"at": END - 30, "deadline": END, "reason": "preempted"}
    (folder / "notice.json").write_text(json.dumps(notice))


def test_a_machine_that_nobody_takes_back_is_never_left(tmp_path: Path) -> None:
    Leaving(None).check()
    Leaving(tmp_path).check()
    Leaving(tmp_path / "absent").check()


def test_it_works_on_until_shortly_before_the_end(tmp_path: Path) -> None:
    clock = Clock()
    leaving = Leaving(tmp_path, clock)
    leaving.check()
    announce(tmp_path)
    clock.now = END - REFUSE_SECONDS - 0.01
    leaving.check()
    clock.now = END - REFUSE_SECONDS + 0.01
    with pytest.raises(ReplicaLostError, match="taken back \\(preempted\\)"):
        leaving.check()
    # what was begun goes on a little longer
    leaving.check(BREAK_SECONDS)
    clock.now = END - BREAK_SECONDS + 0.01
    with pytest.raises(ReplicaLostError):
        leaving.check(BREAK_SECONDS)


def test_the_end_is_not_forgotten_when_it_has_passed(tmp_path: Path) -> None:
    clock = Clock()
    announce(tmp_path)
    clock.now = END + 5
    with pytest.raises(ReplicaLostError):
        Leaving(tmp_path, clock).check()
