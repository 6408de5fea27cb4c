"""The record of an adapter that training has published: what it is, and what it belongs to."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from ironcliw.errors import NewerFormatError, RequestError, StoreError
from ironcliw.file_digests import files_digest, weights_digest
from ironcliw.head_record import AdapterKind, HeadRecord, is_head
from ironcliw.json_files import read_object

FORMAT_VERSION = 2
"""1 had no heads; what is no head is still written as that, so that older releases read it."""
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
"""What peft writes, and all that an adapter is."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_BASE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_SHA256 = re.compile(r"[0-9a-f]{64}")

Metrics = Mapping[str, Mapping[str, float]]


@dataclasses.dataclass(frozen=True, slots=True)
class PublishedAdapter:
    """A LoRA adapter, or a head, that may be served.

    Attributes:
        name: What it is called: requests name the model `BASE:NAME`.
        base: Id in the catalogue of the model that it changes.
        source: Folder with peft's files, or its URI (`s3://`, `gs://`).
        base_digest: `weights_digest` of the base that it was trained on.
        digest: `adapter_digest` of its files.
        rank: The largest of its layers'; of a head, how many labels it has.
        metrics: Such as `{"before": {"loss": 2.1}, "after": {"loss": 1.7}}`.
        created: When it was made; aware, in UTC once it is read again.
        version: Counted from 1 for each name; 0: not published yet, `publish` gives it.
        format_version: Of the record.
        forced: Published although it is worse than its base, or was not measured.
        kind: `lora`, or `head`: see `ironcliw.head_record`.
    """

    name: str
    base: str
    source: str
    base_digest: str
    digest: str
    rank: int
    metrics: Metrics
    created: datetime
    version: int = 0
    format_version: int = 1
    forced: bool = False
    kind: AdapterKind = "lora"

    def __post_init__(self) -> None:
        check_name(self.name)
        if not _BASE.fullmatch(self.base):
            raise RequestError(
                f"adapter {self.name!r}: base {self.base!r} is no id of the catalogue; add the "
                "model to ironcliw.toml as [models.NAME] and train on that",
                param="base",
            )
        for field in ("base_digest", "digest"):
            if not _SHA256.fullmatch(getattr(self, field)):
                raise RequestError(
                    f"adapter {self.name!r}: {field} {getattr(self, field)!r} is no SHA-256 in "
                    "hexadecimal",
                    param=field,
                )
        if self.rank < 1:
            raise RequestError(
                f"adapter {self.name!r}: rank is {self.rank}; it must be 1 or more", param="rank"
            )
        if self.created.tzinfo is None:
            raise RequestError(
                f"adapter {self.name!r}: created {self.created} has no time zone", param="created"
            )
        self._check_metrics()

    def _check_metrics(self) -> None:
        for moment, values in self.metrics.items():
            for name, value in values.items():
                if not math.isfinite(value):
                    raise RequestError(
                        f"adapter {self.name!r}: {name} {moment} is {value}; a measured number is "
                        "expected",
                        param="metrics",
                    )

    @property
    def model_id(self) -> str:
        """How requests name it; the newest version of the name."""
        return f"{self.base}:{self.name}"

    def encode(self) -> dict[str, Any]:
        """As it is stored."""
        values = dataclasses.asdict(self)
        if self.kind == "lora":
            del values["kind"]  # format 1 has no such key
        return values | {"created": self.created.astimezone(UTC).isoformat()}

    @classmethod
    def decode(cls, values: Mapping[str, Any], location: str) -> Self:
        """From what is stored.

        Args:
            values: Of the JSON.
            location: For messages.

        Raises:
            NewerFormatError: a newer release wrote it.
            StoreError: it is damaged.
        """
        version = values.get("format_version")
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise NewerFormatError(
                f"{location} has format_version {version}, and this release reads up to "
                f"{FORMAT_VERSION}; upgrade ironcliw, or publish the adapter with this release"
            )
        try:
            created = datetime.fromisoformat(values["created"]).astimezone(UTC)
            return cls(**{**values, "created": created})
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StoreError(
                f"{location} is damaged ({type(error).__name__}: {error}); publish the adapter "
                "again and remove this version's folder"
            ) from error


def check_name(name: str) -> None:
    """Raise RequestError where an adapter cannot be called so."""
    if not NAME.fullmatch(name):
        raise RequestError(
            f"{name[:80]!r} is no name for an adapter; use 1 to 63 letters, digits, '.', '_' or "
            "'-', beginning with a letter or a digit: it becomes part of paths and model ids",
            param="name",
        )


def adapter_digest(folder: Path, index: Path | None = None) -> str:
    """Of the files that are an adapter; whatever else lies beside them does not count.

    Raises:
        ModelLoadError: one is absent.
    """
    return files_digest([folder / name for name in ADAPTER_FILES], index)


def describe(
    folder: Path,
    *,
    name: str,
    base: str,
    base_weights: Path,
    metrics: Metrics,
    index: Path | None = None,
    forced: bool = False,
) -> PublishedAdapter:
    """The record of an adapter that lies in a folder of this machine; `publish` takes it.

    Args:
        folder: With peft's files, or a head's.
        name: To publish it under.
        base: Catalogue id of its base.
        base_weights: The base's folder or GGUF file, as `ironcliw.sources.locate` gives it.
        metrics: Before and after.
        index: As of `file_digest`: a base of many gigabytes is read once.
        forced: As of the record.

    Raises:
        ModelLoadError: files are absent or damaged.
        RequestError: the name or the base breaks a rule.
    """
    config = read_object(folder / ADAPTER_FILES[0])
    head = is_head(config)
    return PublishedAdapter(
        name=name,
        base=base,
        source=str(folder),
        base_digest=weights_digest(base_weights, index),
        digest=adapter_digest(folder),
        rank=len(HeadRecord.read(folder).labels) if head else largest_rank(config),
        metrics=metrics,
        created=datetime.now(UTC),
        forced=forced,
        format_version=FORMAT_VERSION if head else 1,
        kind="head" if head else "lora",
    )


def largest_rank(config: Mapping[str, Any]) -> int:
    """Of all layers, by peft's adapter_config.json; 0 where it is no LoRA."""
    pattern = config.get("rank_pattern") or {}
    ranks = [config.get("r"), *(pattern.values() if isinstance(pattern, Mapping) else ())]
    return max((rank for rank in ranks if type(rank) is int), default=0)
