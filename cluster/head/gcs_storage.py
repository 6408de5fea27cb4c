"""What the cluster knows, kept on disk, so that a head that was killed comes back as itself.

Ray's control service (GCS) keeps nodes, actors, jobs and Serve's targets in memory by default: with
the head all of it is gone, and workers end themselves. With `RAY_gcs_storage=rocksdb` it writes
each change to a folder. A head that is started with that folder, and on the same address and port,
has the same cluster id: workers reconnect, their actors go on with their state, and Serve's
applications come back. Read in Ray 2.60's `_private/node.py`, where the folder also holds the
name of the session; shown in `tests/integration/test_worker_rejoins.py`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
import shutil
from collections.abc import Callable
from importlib.metadata import version

from pydantic import SecretStr

from cluster.head.record import write_private
from ironcliw.errors import ClusterError
from ironcliw.settings import Settings

FORMAT_VERSION = 1


@dataclasses.dataclass(frozen=True, slots=True)
class Origin:
    """Whose state a folder holds. Workers look for the address; other releases read other forms.

    Attributes:
        address: Where the head's GCS listened, `host:port`.
        ray: Release of Ray.
        python: Python's version, to the patch level, as Ray demands of a cluster.
        format_version: Version of this file's form.
    """

    address: str
    ray: str
    python: str
    format_version: int = FORMAT_VERSION

    @classmethod
    def of(cls, settings: Settings) -> Origin:
        """Of a head that is started now."""
        address = f"{settings.cluster.node_ip}:{settings.cluster.gcs_port}"
        return cls(address, version("ray"), platform.python_version())

    def differences(self, other: Origin) -> str:
        """What differs, in words; empty when nothing does."""
        return ", ".join(
            f"{field.name} {getattr(self, field.name)} instead of {getattr(other, field.name)}"
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != getattr(other, field.name)
        )


class GcsStorage:
    """The folder of one state directory."""

    def __init__(self, settings: Settings) -> None:
        self.folder = settings.state_dir / "gcs"
        self._settings = settings
        self._origin = self.folder / "origin.json"
        self._application = self.folder / "application"

    def environment(self) -> dict[str, str]:
        """What tells `ray start --head` to use it."""
        return {
            "RAY_gcs_storage": "rocksdb",
            "RAY_gcs_storage_path": str(self.folder / "rocksdb"),
        }

    def exists(self) -> bool:
        """Whether a head left state behind that no `down` has cleared."""
        return self._origin.exists()

    def prepare(self, report: Callable[[str], None]) -> bool:
        """Make the folder ready for a start; what does not fit this head is removed.

        Returns:
            Whether the state of an earlier head is there and will be used.
        """
        now = Origin.of(self._settings)
        if self.exists():
            differences = now.differences(self._read())
            if not differences:
                return True
            report(
                f"the state of the earlier head cannot be used ({differences}) and is removed; "
                "its workers power off by themselves"
            )
        self.clear()
        write_private(self._origin, json.dumps(dataclasses.asdict(now), indent=2) + "\n")
        return False

    def holds_application(self) -> bool:
        """Whether the application that the state holds was deployed from the same settings."""
        try:
            return self._application.read_text(encoding="ascii") == self._fingerprint()
        except FileNotFoundError:
            return False

    def note_application(self) -> None:
        """Say that the application of these settings was deployed."""
        write_private(self._application, self._fingerprint())

    def clear(self) -> None:
        """Forget everything."""
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.folder.exists():
            raise ClusterError(
                f"{self.folder} cannot be removed; remove it, or the next head takes its state on"
            )

    def _read(self) -> Origin:
        try:
            values = json.loads(self._origin.read_text(encoding="utf-8"))
            found = Origin(**{name: values[name] for name in Origin.__slots__})
        except (ValueError, KeyError, TypeError) as error:
            raise ClusterError(
                f"{self._origin} is damaged ({error}); `ironcliw down` forgets the earlier head"
            ) from error
        if found.format_version > FORMAT_VERSION:
            raise ClusterError(
                f"{self._origin} has format {found.format_version}, this release reads up to "
                f"{FORMAT_VERSION}; use the release that wrote it, or forget the earlier head with "
                "`ironcliw down`"
            )
        return found

    def _fingerprint(self) -> str:
        # with the secrets: a changed one must be noticed
        values = self._settings.model_dump(mode="python")
        text = json.dumps([version("ironcliw"), values], default=_plain, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def _plain(value: object) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)
