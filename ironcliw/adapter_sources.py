"""From an adapter of the catalogue to its files on this machine, whole and the right ones."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ironcliw.adapter_record import ADAPTER_FILES, adapter_digest
from ironcliw.buckets import Bucket, connect, shown
from ironcliw.errors import AdapterError, ModelLoadError, StoreError
from ironcliw.retries import Retry, is_transient, one_line

if TYPE_CHECKING:
    from ironcliw.adapter_catalog import AdapterCard

RETRY = Retry(attempts=4)

_BLOCK = 16 << 20


def locate_adapter(card: AdapterCard, cache_dir: Path) -> Path:
    """Folder with an adapter's files, fetched first where it is in a bucket.

    What has a digest is fetched once and kept under it; what has none is fetched each time, since
    nothing says whether it has changed. Blocking.

    Args:
        card: The adapter.
        cache_dir: Of the models; adapters get a folder in it.

    Raises:
        AdapterError: the files are absent, cannot be fetched, or are not those of the digest.
    """
    if card.is_local:
        folder = Path(card.source.removeprefix("dir:")).expanduser()
        _check_there(card, folder)
        _check_digest(card, folder)
        return folder
    root = cache_dir / "adapters"
    if card.digest is not None and (root / card.digest).is_dir():
        folder = root / card.digest
        if _is_whole(folder, card.digest):
            return folder
        shutil.rmtree(folder, ignore_errors=True)  # damaged since: fetched again
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetching-", dir=root) as work:
            fetched = Path(work) / "adapter"
            fetched.mkdir()
            _fetch(card, fetched)
            _check_digest(card, fetched)
            return _keep(fetched, root / adapter_digest(fetched))
    except OSError as error:
        raise AdapterError(
            f"adapter {card.model_id}: {shown(card.source)} could not be kept in {root}: {error}"
        ) from error


def _is_whole(folder: Path, digest: str) -> bool:
    try:
        return adapter_digest(folder) == digest
    except ModelLoadError:  # a file is gone
        return False


def _check_there(card: AdapterCard, folder: Path) -> None:
    for name in ADAPTER_FILES:
        if not (folder / name).is_file():
            raise AdapterError(
                f"adapter {card.model_id}: {folder / name} is absent; name the folder that "
                "training left, with peft's files in it",
                code="adapter_file_absent",
            )


def _check_digest(card: AdapterCard, folder: Path) -> None:
    found = adapter_digest(folder)
    if card.digest is not None and found != card.digest:
        raise AdapterError(
            f"adapter {card.model_id}: its files have the digest {found} and not {card.digest}; "
            f"they were damaged or replaced at {shown(card.source)}: publish the adapter again"
        )


def _keep(fetched: Path, target: Path) -> Path:
    """Give a whole copy its name; where another process was first, its copy stays."""
    try:
        fetched.rename(target)
    except OSError:
        if not target.is_dir():
            raise
    return target


def _fetch(card: AdapterCard, folder: Path) -> None:
    try:
        bucket = connect(card.source)
    except StoreError as error:
        raise AdapterError(f"adapter {card.model_id}: {error}") from error
    for name in ADAPTER_FILES:
        where = f"{bucket.shown}/{name}"
        try:
            RETRY.call(lambda name=name: _copy(bucket, name, folder / name), f"fetching {where}")  # type: ignore[misc]
        except FileNotFoundError as error:
            raise AdapterError(
                f"adapter {card.model_id}: {where} is absent; name the folder that training left, "
                "with peft's files in it",
                code="adapter_file_absent",
            ) from error
        except Exception as error:  # clients raise classes of their own: all become ours
            hint = (
                "it may pass: see the network and the service's status"
                if is_transient(error)
                else "see the bucket's name, and what this machine's account may do with it"
            )
            raise AdapterError(
                f"adapter {card.model_id}: {where} cannot be fetched: {one_line(error)}; {hint}"
            ) from error


def _copy(bucket: Bucket, name: str, target: Path) -> None:
    # a stream, for the reasons that train/checkpoint/remote.py gives
    with bucket.system.open_input_stream(f"{bucket.root}/{name}") as source:
        with target.open("wb") as out:
            while block := source.read(_BLOCK):
                out.write(block)
