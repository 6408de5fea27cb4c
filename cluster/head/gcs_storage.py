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
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any

from pydantic import SecretStr

from cluster.head.record import write_private
from ironcliw.errors import ClusterError
from ironcliw.setting_sections import CloudSettings
from ironcliw.settings import Settings

FORMAT_VERSION = 1


@dataclasses.dataclass(frozen=True, slots=True)
class CloudOrigin:
    """Where the head's machines are: what is needed to list and delete them."""

    project: str
    cluster_name: str
    zones: tuple[str, ...]
    api_endpoint: str | None

    @classmethod
    def of(cls, cloud: CloudSettings) -> CloudOrigin | None:
        """What the settings say; None: no cloud."""
        if cloud.project is None:
            return None
        return cls(cloud.project, cloud.cluster_name, cloud.zones, cloud.api_endpoint)

    @classmethod
    def read(cls, values: Mapping[str, Any] | None) -> CloudOrigin | None:
        """What was written; None also where an older release wrote it."""
        if values is None:
            return None
        fields = {field.name: values[field.name] for field in dataclasses.fields(cls)}
        return cls(**{**fields, "zones": tuple(fields["zones"])})

    @property
    def place(self) -> tuple[str, str, str | None]:
        """What makes machines to be listed elsewhere."""
        return self.project, self.cluster_name, self.api_endpoint

    def __str__(self) -> str:
        at = f" at {self.api_endpoint}" if self.api_endpoint else ""
        return f"project {self.project}, cluster {self.cluster_name}{at}"


@dataclasses.dataclass(frozen=True, slots=True)
class Origin:
    """Whose state a folder holds. Workers look for the address; other releases read other forms.

    Attributes:
        address: Where the head's GCS listened, `host:port`.
        ray: Release of Ray.
        python: Python's version, to the patch level, as Ray demands of a cluster.
        cloud: Where its machines are; None: it had none, or an older release wrote this.
        format_version: Version of this file's form.
    """

    address: str
    ray: str
    python: str
    cloud: CloudOrigin | None = None
    format_version: int = FORMAT_VERSION

    @classmethod
    def of(cls, settings: Settings) -> Origin:
        """Of a head that is started now."""
        address = f"{settings.cluster.node_ip}:{settings.cluster.gcs_port}"
        cloud = CloudOrigin.of(settings.cloud)
        return cls(address, version("ray"), platform.python_version(), cloud)

    def differences(self, other: Origin) -> str:
        """What differs, in words; empty when nothing does. Zones may, and what is not known."""
        names = [field.name for field in dataclasses.fields(self) if field.name != "cloud"]
        found = [
            f"{name} {getattr(self, name)} instead of {getattr(other, name)}"
            for name in names
            if getattr(self, name) != getattr(other, name)
        ]
        if self.cloud and other.cloud and self.cloud.place != other.cloud.place:
            found.append(f"{self.cloud} instead of {other.cloud}")
        return ", ".join(found)


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
            before = self._read()
            differences = now.differences(before)
            if not differences:
                if now.cloud not in (None, before.cloud):
                    self._write(now)  # other zones, or an older release's file
                return True
            report(
                f"the state of the earlier head cannot be used ({differences}) and is removed; "
                "its workers power off by themselves"
            )
        self.clear()
        self._write(now)
        return False

    def cloud(self) -> CloudOrigin | None:
        """Where the earlier head's machines are; None: nothing says so."""
        try:
            return self._read().cloud if self.exists() else None
        except ClusterError:
            return None  # `down` forgets a damaged file, and the settings must do

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

    def _write(self, origin: Origin) -> None:
        write_private(self._origin, json.dumps(dataclasses.asdict(origin), indent=2) + "\n")

    def _read(self) -> Origin:
        try:
            values = json.loads(self._origin.read_text(encoding="utf-8"))
            given = {name: values[name] for name in Origin.__slots__ if name != "cloud"}
            found = Origin(**given, cloud=CloudOrigin.read(values.get("cloud")))
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


def of_record(settings: Settings) -> Settings:
    """The settings with the cloud in which this state directory's machines are.

    A project or a name that was changed since the head started is not where its machines are.
    """
    recorded = GcsStorage(settings).cloud()
    if recorded is None:
        return settings
    place = {name: getattr(recorded, name) for name in CloudOrigin.__slots__}
    return settings.model_copy(update={"cloud": settings.cloud.model_copy(update=place)})


def _plain(value: object) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)
