"""The manifest: which files a checkpoint has, their sizes and hashes, and what run they are of.

It is written last, and a folder without one is no checkpoint. It seals itself: the field `seal` is
the SHA-256 of all the others, and the bytes must be those that encoding gives, so that a change of
any byte is seen. That holds for every `format_version`; the rest may change from one to the next.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from ironcliw.errors import DamagedCheckpointError, NewerFormatError
from train.fingerprint import Fingerprint

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
_FILE_NAME = re.compile(r"[a-z][a-z0-9_]*\.(?:safetensors|json)")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file of a checkpoint.

    Attributes:
        name: Within the checkpoint's folder.
        size_bytes: Its length.
        sha256: Of its bytes, in hexadecimal.
    """

    name: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What makes files a checkpoint.

    Attributes:
        step: Optimizer steps done.
        files: In the order in which they were written.
        fingerprint: Of the run; it holds the model's id and digest.
        created: When it was saved, ISO 8601 in UTC.
    """

    step: int
    files: tuple[FileEntry, ...]
    fingerprint: Fingerprint
    created: str

    @property
    def size_bytes(self) -> int:
        """Of all files."""
        return sum(file.size_bytes for file in self.files)

    def encode(self) -> bytes:
        """As it is stored."""
        return _sealed(
            {
                "format_version": FORMAT_VERSION,
                "step": self.step,
                "created": self.created,
                "files": [
                    {"name": file.name, "bytes": file.size_bytes, "sha256": file.sha256}
                    for file in self.files
                ],
                "fingerprint": self.fingerprint.to_dict(),
            }
        )

    @classmethod
    def decode(cls, raw: bytes, location: str) -> Self:
        """From what is stored.

        Args:
            raw: Bytes of the file.
            location: Of the file, for messages.

        Raises:
            DamagedCheckpointError: the bytes are not those that were written.
            NewerFormatError: a newer release wrote it.
        """
        values = _unsealed(raw, location)
        version = values.get("format_version")
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise NewerFormatError(
                f"{location} has format_version {version}, and this release reads up to "
                f"{FORMAT_VERSION}; upgrade ironcliw, or name another folder for this run"
            )
        try:
            return cls._from_values(values)
        except (KeyError, TypeError, ValueError) as error:
            raise DamagedCheckpointError(
                f"{location} is sealed and yet no manifest of format_version {version} "
                f"({type(error).__name__}: {error}); it was not written by ironcliw"
            ) from error

    @classmethod
    def _from_values(cls, values: Mapping[str, Any]) -> Self:
        files = tuple(FileEntry(f["name"], f["bytes"], f["sha256"]) for f in values["files"])
        for file in files:
            # a name with a slash would read, or remove, what is elsewhere
            if not _FILE_NAME.fullmatch(file.name) or not _SHA256.fullmatch(file.sha256):
                raise ValueError(f"file {file.name!r} with sha256 {file.sha256!r}")
            if type(file.size_bytes) is not int or file.size_bytes < 0:
                raise ValueError(f"file {file.name!r} of {file.size_bytes!r} bytes")
        if type(values["format_version"]) is not int or type(values["step"]) is not int:
            raise ValueError("format_version and step must be integers")
        fingerprint = Fingerprint.from_dict(values["fingerprint"])
        return cls(values["step"], files, fingerprint, values["created"])


def _text(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values, indent=1, sort_keys=True) + "\n").encode()


def _sealed(values: dict[str, Any]) -> bytes:
    return _text({**values, "seal": hashlib.sha256(_text(values)).hexdigest()})


def _unsealed(raw: bytes, location: str) -> dict[str, Any]:
    try:
        values = json.loads(raw)
    # a damaged file may be anything, brackets a hundred thousand deep as well
    except (ValueError, RecursionError) as error:
        raise DamagedCheckpointError(
            f"{location}, {len(raw)} bytes, is cut off or damaged: {error}"
        ) from error
    if not isinstance(values, dict):
        raise DamagedCheckpointError(f"{location} holds {type(values).__name__}, not an object")
    found = values.pop("seal", None)
    expected = hashlib.sha256(_text(values)).hexdigest()
    if found != expected or _text({**values, "seal": found}) != raw:
        raise DamagedCheckpointError(
            f"{location} is damaged: its seal is {found}, its content's sha256 {expected}"
        )
    return values
