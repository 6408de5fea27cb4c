"""What `up` leaves on disk for `down`, `status` and the next `up`: one small JSON file."""

from __future__ import annotations

import dataclasses
import json
import os
import secrets
from pathlib import Path

from ironcliw.errors import ClusterError

FORMAT_VERSION = 1


@dataclasses.dataclass(frozen=True, slots=True)
class HeadRecord:
    """A head that was started from this state directory.

    Attributes:
        session: The tag that all its processes carry.
        base_url: Address of the HTTP service.
        dashboard_url: Address of the Ray dashboard.
        started_at: Seconds since the epoch.
        format_version: Version of this file's form.
    """

    session: str
    base_url: str
    dashboard_url: str
    started_at: float
    format_version: int = FORMAT_VERSION

    def write(self, path: Path) -> None:
        """Replace the file in one step."""
        write_private(path, json.dumps(dataclasses.asdict(self), indent=2) + "\n")

    @classmethod
    def read(cls, path: Path) -> HeadRecord | None:
        """The record, or None when there is no file.

        Raises:
            ClusterError: the file is damaged or was written by a newer release.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            version = values["format_version"]
            if version > FORMAT_VERSION:
                raise ClusterError(
                    f"{path} has format {version}, this release reads up to {FORMAT_VERSION}; "
                    "use the release that started the head to stop it"
                )
            return cls(**values)
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise ClusterError(
                f"{path} is damaged ({error}); end its processes with `ironcliw down --all`"
            ) from error


def record_path(state_dir: Path) -> Path:
    """Where the record of a state directory is."""
    return state_dir / "head.json"


def ensure_token(path: Path) -> None:
    """Create the cluster's access token unless it exists; readable by its owner only."""
    if path.exists() and path.stat().st_size > 0:
        return
    write_private(path, secrets.token_hex(32))


def read_token(path: Path) -> str | None:
    """Ray's access token; None before the first `ironcliw up`."""
    return (path.read_text(encoding="ascii").strip() or None) if path.is_file() else None


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, in one step."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    temporary.replace(path)
