"""Runs the Alembic revisions that each folder ships; configured in code, without an `env.py`.

A folder `X` owns a branch: the package `X.migrations` with a folder `versions`, whose first
revision has no parent and carries the branch label `X`. The revisions that a database has reached
stand in its table `alembic_version`, one row a branch, which is the store's format version.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType

from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from ironcliw.errors import NewerFormatError, StoreError

BRANCHES: Mapping[str, str] = MappingProxyType(
    {
        "actors": "actors.migrations",
        "cluster": "cluster.migrations",
        "serve": "serve.migrations",
    }
)
"""Branch label -> package. A folder that gets its first table adds its line here."""

# revisions speak to `alembic.op`, which is one global for the whole process
_op_lock = threading.Lock()


class Revisions:
    """The revisions that this installation knows.

    Args:
        branches: Branch label -> package whose `versions` folder holds the branch's revisions.

    Raises:
        StoreError: A folder is installed and its revisions are not.
    """

    def __init__(self, branches: Mapping[str, str]) -> None:
        found = (_versions(label, package) for label, package in branches.items())
        folders = [folder for folder in found if folder is not None]
        self._script = ScriptDirectory(Path(__file__).parent, version_locations=folders)
        self.known = frozenset(step.revision for step in self._script.walk_revisions())
        self.heads = frozenset(self._script.get_heads())

    def reached(self, connection: Connection, name: str) -> bool:
        """Whether the database stands at the newest revision of every branch.

        Args:
            connection: To the database; only read.
            name: How messages call the database.

        Raises:
            NewerFormatError: The database holds a revision that nobody here knows.
        """
        current = set(MigrationContext.configure(connection).get_current_heads())
        if unknown := sorted(current - self.known):
            raise NewerFormatError(
                f"the state store {name} stands at revision {', '.join(unknown)}, which this "
                f"release does not know (it knows up to {', '.join(sorted(self.heads))}): "
                "a newer release has used it; upgrade ironcliw, or name another store"
            )
        return current == self.heads

    def upgrade(self, connection: Connection) -> None:
        """Runs what is missing, inside the transaction that the caller opened and commits."""
        context = MigrationContext.configure(
            connection, opts={"fn": lambda heads, _: self._script._upgrade_revs("heads", heads)}
        )
        with _op_lock, Operations.context(context):
            context.run_migrations()


def _versions(label: str, package: str) -> Path | None:
    """The folder of a branch's revisions; None where the folder that owns it is not installed."""
    if find_spec(package.partition(".")[0]) is None:
        return None
    try:
        spec = find_spec(package)
    except ModuleNotFoundError:
        spec = None
    places = spec.submodule_search_locations if spec is not None else None
    for place in places or ():
        if (folder := Path(place) / "versions").is_dir():
            return folder
    raise StoreError(
        f"the revisions of the state store's branch {label!r} are missing: no folder 'versions' "
        f"in the package {package!r}; the installation is incomplete, install ironcliw again"
    )
