"""From an adapter of the catalogue to one in memory, beside its base."""

from __future__ import annotations

from pathlib import Path

from ironcliw.adapter_record import ADAPTER_FILES
from ironcliw.adapter_sources import locate_adapter
from ironcliw.catalog import GENERATING, ModelCard
from ironcliw.errors import AdapterError, UnsupportedError
from ironcliw.file_digests import weights_digest
from ironcliw.sources import locate
from serve.generation.protocol import LoadedAdapter

_UNKNOWN_BYTES = 16_000_000


def load_adapter(card: ModelCard, base: object, cache_dir: Path) -> LoadedAdapter:
    """Read an adapter for its base; blocking, for tens of milliseconds, longer from a bucket.

    Nothing is kept of one that cannot be loaded.

    Args:
        card: Of the model under the adapter.
        base: Its base's engine.
        cache_dir: Of the models.

    Raises:
        AdapterError: the files are absent, damaged, or belong to another base.
        UnsupportedError: what computes the base computes no adapters.
    """
    adapter = card.adapter
    assert adapter is not None, f"{card.id} has no adapter"
    read = getattr(base, "read_adapter", None)
    if read is None:
        raise UnsupportedError(
            f"model {adapter.base!r} is computed by an engine that serves no adapters of ours; "
            + (
                f"set models.{adapter.base}.engine = 'torch', or merge"
                if card.task in GENERATING
                else "merge"
            )
            + " the adapter and serve that as a model of its own",
            param="model",
        )
    folder = locate_adapter(adapter, cache_dir)
    check_base(card, adapter.base_digest, cache_dir)
    loaded: LoadedAdapter = read(folder)
    return loaded


def check_base(card: ModelCard, trained_on: str | None, cache_dir: Path) -> None:
    """Refuse an adapter, or a head, beside other weights than it was made for; blocking.

    Args:
        card: Of the model under it.
        trained_on: `weights_digest` of those; None: it does not say.
        cache_dir: Of the models.

    Raises:
        AdapterError: its base has others here.
    """
    if trained_on is None:
        return
    adapter = card.adapter
    assert adapter is not None, f"{card.id} has no adapter"
    found = weights_digest(locate(card, cache_dir), digest_index(cache_dir))
    if found != trained_on:
        raise AdapterError(
            f"adapter {adapter.model_id} was trained on other weights than {adapter.base} has "
            f"here (SHA-256 {trained_on[:12]}... and {found[:12]}...); put those back as "
            f"models.{adapter.base}.source, or train it again",
            code="adapter_of_other_base",
        )


def adapter_bytes(card: ModelCard) -> int:
    """What loading will need: from the files where they are here, else a guess."""
    adapter = card.adapter
    assert adapter is not None, f"{card.id} has no adapter"
    if not adapter.is_local:
        return _UNKNOWN_BYTES
    file = Path(adapter.source.removeprefix("dir:")).expanduser() / ADAPTER_FILES[1]
    try:
        return file.stat().st_size
    except OSError:
        return _UNKNOWN_BYTES  # loading says what is wrong


def digest_index(cache_dir: Path) -> Path:
    """Where digests of weights are kept, by file; training uses the same."""
    return cache_dir / "index"
