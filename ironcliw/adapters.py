"""Adapters that training has published: what each belongs to, and every version of it.

    STATE_DIR/adapters/NAME/00000001/adapter.json               the record
    STATE_DIR/adapters/NAME/00000001/adapter_config.json, ...   the files, where they were local

A folder of files is copied when it is published, so that a run may be removed; what lies in a
bucket stays there, and its record says what its bytes must be. A version appears whole, is never
changed, and none is removed, so that a name can go back to an older one.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import tempfile
from pathlib import Path

from ironcliw.adapter_record import (
    ADAPTER_FILES,
    FORMAT_VERSION,
    NAME,
    Metrics,
    PublishedAdapter,
    adapter_digest,
    check_name,
    describe,
)
from ironcliw.durable import sync
from ironcliw.errors import ConflictError, ModelLoadError, StoreError

__all__ = [
    "ADAPTER_FILES",
    "FORMAT_VERSION",
    "Metrics",
    "PublishedAdapter",
    "adapter_digest",
    "check_name",
    "describe",
    "names",
    "publish",
    "published",
    "register_folder",
    "versions",
]

_RECORD = "adapter.json"
_VERSION = re.compile(r"[0-9]{8}")


def publish(state_dir: Path, adapter: PublishedAdapter) -> PublishedAdapter:
    """Add a version to the register: it is served from then on.

    Safe with several processes at once: each gets a version of its own.

    Args:
        state_dir: Of the settings.
        adapter: Its source is a path, `dir:PATH`, or a URI.

    Returns:
        The record as it is kept: with its version, and with the copy as its source.

    Raises:
        ModelLoadError: the source is a folder that is absent, or whose files are not those of
            `digest`.
        ConflictError: another name differs from this one by upper and lower case alone.
        NewerFormatError: a newer release has published under this name.
        StoreError: the register cannot be written.
    """
    root = register_folder(state_dir)
    try:
        folder = root / adapter.name
        folder.mkdir(parents=True, exist_ok=True)
        _check_case(root, adapter.name)
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=folder) as temporary:
            work = Path(temporary) / "version"
            work.mkdir()
            is_local = _copy_local(adapter, work)
            while True:
                version = 1 + max(
                    (one.version for one in versions(state_dir, adapter.name)), default=0
                )
                target = folder / f"{version:08d}"
                source = str(target) if is_local else adapter.source
                record = dataclasses.replace(adapter, version=version, source=source)
                _write_record(work / _RECORD, record)
                if _rename(work, target):
                    return record
    except OSError as error:
        raise StoreError(
            f"adapter {adapter.name!r} cannot be published in {root}: {error}; see that the "
            "folder can be written and the disk has room"
        ) from error


def versions(state_dir: Path, name: str) -> tuple[PublishedAdapter, ...]:
    """All that were published under a name, oldest first; none where the name is not known.

    Raises:
        NewerFormatError: a newer release wrote one.
        StoreError: one is damaged.
    """
    folder = register_folder(state_dir) / name
    if not NAME.fullmatch(name) or not folder.is_dir():
        return ()
    found = sorted(each.name for each in folder.iterdir() if _VERSION.fullmatch(each.name))
    return tuple(_read(folder / version) for version in found)


def published(state_dir: Path) -> dict[str, tuple[PublishedAdapter, ...]]:
    """Every name and its versions, oldest first.

    Raises:
        NewerFormatError: a newer release wrote one.
        StoreError: one is damaged.
    """
    found = {name: versions(state_dir, name) for name in names(state_dir)}
    return {name: kept for name, kept in found.items() if kept}


def names(state_dir: Path) -> list[str]:
    """Every name in the register, without opening a record."""
    root = register_folder(state_dir)
    if not root.is_dir():
        return []
    return sorted(each.name for each in root.iterdir() if NAME.fullmatch(each.name))


def register_folder(state_dir: Path) -> Path:
    """Where the register is, or will be."""
    return state_dir / "adapters"


def _check_case(root: Path, name: str) -> None:
    """Such names would be one folder on a Mac's disk, and two on Linux."""
    for other in root.iterdir():
        if other.name != name and other.name.lower() == name.lower():
            raise ConflictError(
                f"an adapter is called {other.name!r} already; {name!r} differs by upper and lower "
                "case alone: choose another name",
                param="name",
            )


def _copy_local(adapter: PublishedAdapter, target: Path) -> bool:
    """Take the files of a folder of this machine, and tell whether the source is one."""
    if "://" in adapter.source:
        return False
    folder = Path(adapter.source.removeprefix("dir:")).expanduser()
    for name in ADAPTER_FILES:
        if not (folder / name).is_file():
            raise ModelLoadError(
                f"adapter {adapter.name!r}: {folder / name} is absent; name the folder that "
                "training left, with peft's files in it",
                code="model_file_absent",
            )
        shutil.copyfile(folder / name, target / name)
    found = adapter_digest(target)
    if found != adapter.digest:
        raise ModelLoadError(
            f"adapter {adapter.name!r}: the files in {folder} have the digest {found}, the record "
            f"says {adapter.digest}; they were changed since: train or publish again"
        )
    for name in ADAPTER_FILES:
        sync(target / name)
    return True


def _write_record(file: Path, record: PublishedAdapter) -> None:
    file.write_text(json.dumps(record.encode(), indent=1) + "\n", encoding="utf-8")
    sync(file)


def _rename(work: Path, target: Path) -> bool:
    """Give a version its place; False where another process was first."""
    try:
        work.rename(target)
    except OSError:
        if target.exists():
            return False
        raise
    sync(target.parent)
    return True


def _read(folder: Path) -> PublishedAdapter:
    file = folder / _RECORD
    try:
        values = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise StoreError(
            f"{file} cannot be read ({error}); publish the adapter again and remove this version's "
            "folder"
        ) from error
    if not isinstance(values, dict):
        raise StoreError(f"{file} holds a {type(values).__name__}, not an object")
    return PublishedAdapter.decode(values, str(file))
