"""Names that stand for models, and can be pointed at others while the service runs.

An alias has a target and may have a canary: another model that a share of the requests goes to.
Every change is a row that is kept, so that it can be undone, also after a restart.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import (
    CheckConstraint,
    Column,
    Connection,
    Float,
    Index,
    Integer,
    Row,
    String,
    Table,
    select,
    update,
)

from ironcliw.errors import ConflictError, NotFoundError, RequestError, StoreError
from ironcliw.store import Store, UtcDateTime, metadata
from serve.alias_split import goes_to_canary

logger = logging.getLogger(__name__)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")

model_aliases = Table(
    "model_aliases",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("alias", String(63), nullable=False),
    Column("target", String(255), nullable=False),
    Column("canary", String(255)),
    Column("percent", Float),
    Column("created_at", UtcDateTime, nullable=False),
    Column("undone_at", UtcDateTime),
    CheckConstraint("percent > 0 AND percent < 100", name="percent"),
    Index("ix_model_aliases_alias", "alias"),
)


@dataclass(frozen=True, slots=True)
class ModelAlias:
    """What a name stands for.

    Attributes:
        alias: The name.
        target: Id of the model that answers.
        canary: Id of the one that answers a share of the requests; None: there is none.
        percent: That share, above 0 and below 100; None with no canary.
        since: When it was made so, UTC.
    """

    alias: str
    target: str
    canary: str | None
    percent: float | None
    since: datetime

    def model_for(self, key: bytes) -> str:
        """Which model answers a request; the same key goes to the same side.

        Args:
            key: What is stable about the request, see `serve.alias_split.request_key`.
        """
        if self.canary is not None and self.percent is not None:
            if goes_to_canary(self.alias, key, self.percent):
                return self.canary
        return self.target


class ModelAliases:
    """The aliases in the state store, and the view of them that requests use.

    Args:
        store: Migrated already.
        now: The wall clock; aware datetimes.
    """

    def __init__(
        self, store: Store, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._store = store
        self._now = now
        self._view: Mapping[str, ModelAlias] = {}

    def get(self, alias: str) -> ModelAlias | None:
        """As it was at the last `refresh`; never reads the store."""
        return self._view.get(alias)

    def all(self) -> list[ModelAlias]:
        """By name, as they were at the last `refresh`."""
        return [self._view[alias] for alias in sorted(self._view)]

    def refresh(self) -> None:
        """Read the store; where that fails the last view goes on.

        Raises:
            StoreError: it cannot be read.
        """
        with self._store.read() as connection:
            rows = connection.execute(
                select(model_aliases)
                .where(model_aliases.c.undone_at.is_(None))
                .order_by(model_aliases.c.id)
            ).all()
        self._view = {row.alias: _alias(row) for row in rows}  # the last of a name counts

    def promote(self, alias: str, target: str, percent: float | None = None) -> ModelAlias:
        """Have an alias stand for a model, or try the model on a share of its requests.

        Args:
            alias: A name that may be new.
            target: Exactly one model of the catalogue.
            percent: Of the requests that go to it; None or 100: all.

        Raises:
            RequestError: the name or the share breaks a rule, or there is nothing to share with.
        """
        _check_name(alias)
        share = None if percent is None or percent == 100 else percent
        if share is not None and not 0 < share < 100:
            raise RequestError(
                f"percent is {percent:g}; give more than 0 and at most 100", param="percent"
            )
        with self._store.write() as connection:
            before = _current(connection, alias)
            row: dict[str, object] = {"alias": alias, "target": target}
            if share is not None:
                if before is None:
                    raise RequestError(
                        f"alias {alias!r} stands for nothing yet, so that no share of it can go "
                        f"to {target}; promote a model without a percentage first",
                        param="percent",
                    )
                row |= {"target": before.target, "canary": target, "percent": share}
            connection.execute(model_aliases.insert(), row | {"created_at": self._now()})
        return self._refreshed(alias)

    def rollback(self, alias: str) -> ModelAlias:
        """Undo the last change: end a canary, or go back to the model before.

        Canaries that came before the model which is left are undone with it.

        Raises:
            NotFoundError: no such alias.
            ConflictError: there is nothing to go back to.
        """
        with self._store.write() as connection:
            rows = _rows(connection, alias)
            if not rows:
                raise NotFoundError(self._unknown(alias), param="alias")
            undone = [rows[0].id]
            for row in rows[1:]:
                if row.canary is None:
                    break
                undone.append(row.id)
            if len(undone) == len(rows):
                raise ConflictError(
                    f"alias {alias!r} has stood for {rows[0].target} from the beginning; promote "
                    "another model instead",
                    param="alias",
                )
            connection.execute(
                update(model_aliases)
                .where(model_aliases.c.id.in_(undone))
                .values(undone_at=self._now())
            )
        return self._refreshed(alias)

    def _refreshed(self, alias: str) -> ModelAlias:
        self.refresh()
        found = self.get(alias)
        if found is None:
            raise StoreError(f"alias {alias!r} was changed and is gone; ask for the list")
        logger.info("alias %s: %s, canary %s", alias, found.target, found.canary or "none")
        return found

    def _unknown(self, alias: str) -> str:
        known = ", ".join(one.alias for one in self.all()) or "none"
        return f"no alias {alias!r}; known aliases: {known}"


def _rows(connection: Connection, alias: str) -> list[Row[tuple[object, ...]]]:
    """What holds and what held before, newest first."""
    query = select(model_aliases).where(
        model_aliases.c.alias == alias, model_aliases.c.undone_at.is_(None)
    )
    return list(connection.execute(query.order_by(model_aliases.c.id.desc())).all())


def _current(connection: Connection, alias: str) -> ModelAlias | None:
    rows = _rows(connection, alias)
    return _alias(rows[0]) if rows else None


def _alias(row: Row[tuple[object, ...]]) -> ModelAlias:
    return ModelAlias(row.alias, row.target, row.canary, row.percent, row.created_at)


def _check_name(alias: str) -> None:
    if not _NAME.fullmatch(alias):
        raise RequestError(
            f"{alias[:80]!r} is no name for an alias; use 1 to 63 letters, digits, '.', '_' or "
            "'-', beginning with a letter or a digit",
            param="alias",
        )
