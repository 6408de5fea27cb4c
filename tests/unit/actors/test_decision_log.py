"""The decision log: what a policy may tell of itself, and what the store makes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from actors.decision_log import Decided, DecisionLog
from actors.journal import Journal
from actors.routing import Choice, Option
from actors.tables import actors_decisions
from ironcliw.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(f"sqlite:///{tmp_path / 'state.db'}") as store:
        store.migrate()
        yield store


def decided(details: Any = None, **features: Any) -> Decided:
    options = (Option("local"), Option("spot"))
    return Decided("w", "s", 1, "odd", features, options, (True, True), Choice(0), details)


def written(store: Store) -> list[Any]:
    with store.read() as connection:
        return list(connection.execute(select(actors_decisions)))


@pytest.mark.parametrize(
    "row",
    [
        decided({"a": {1, 2}}),
        decided({"a": float("nan")}),
        decided({"a": "\ud800"}),
        decided({"a": "zero \0"}),
        decided({"a": 2**70}),
        decided(memory_gb="much"),
    ],
    ids=["set", "nan", "surrogate", "zero", "huge", "feature"],
)
async def test_a_row_that_the_store_would_refuse_keeps_no_other_from_it(
    store: Store, row: Decided, caplog: pytest.LogCaptureFixture
) -> None:
    journal = Journal(store)
    log = DecisionLog(journal, 1.0)
    assert log.note(row) is None
    good = log.note(decided({"a": 1}, memory_gb=2.0))
    log.outcome(good, {"seconds": float("inf")})
    log.outcome(good, {"seconds": 2.0})
    await log.flush()
    assert [one.outcome for one in written(store)] == [{"seconds": 2.0}]
    assert log.lost == 2
    assert "a decision of policy 'odd' is not logged" in caplog.text
    assert f"the outcome of decision {good} is not logged" in caplog.text
    await journal.close()


class Choosy:
    """A journal that cannot take what it is given first."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.is_first = True

    async def commit(self, work: Callable[[Any], Any]) -> Any:
        if self.is_first:
            self.is_first = False
            raise TypeError("such rows are not to be had")
        return await self._journal.commit(work)


async def test_rows_that_are_refused_all_the_same_do_not_stay(store: Store) -> None:
    journal = Journal(store)
    log = DecisionLog(Choosy(journal), 1.0)
    log.note(decided({"a": 1}))
    with pytest.raises(TypeError, match="not to be had"):
        await log.flush()
    log.note(decided({"a": 2}))
    await log.flush()
    assert [row.details for row in written(store)] == [{"a": 2}]
    assert log.lost == 1
    await journal.close()
