"""What a published head says of itself: which labels it tells apart, and how sure it is.

A head is a linear classifier over the vectors of an embedding model. It is published beside
adapters, under the same names and versions, and its files have the names of theirs:

    adapter_config.json        this record
    adapter_model.safetensors  head.weight float32 [L, D], head.bias float32 [L]
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from ironcliw.errors import AdapterError, ModelLoadError
from ironcliw.json_files import read_object

AdapterKind = Literal["lora", "head"]
CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
WEIGHT, BIAS = "head.weight", "head.bias"
_TYPE = "HEAD"
_FORMAT_VERSION = 1


@dataclasses.dataclass(frozen=True, slots=True)
class HeadRecord:
    """A head.

    Attributes:
        labels: L of them, in the order of the logits.
        dimensions: D, of the vectors that it reads, which have length 1.
        temperature: What logits are divided by, so that probabilities mean what they say.
        metrics: What was measured of it, such as `accuracy` and `ece`.
        base: The model whose vectors it reads, as it was named when the head was fitted.
        base_digest: `weights_digest` of that model; None: an older release fitted it.
    """

    labels: tuple[str, ...]
    dimensions: int
    temperature: float
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    base: str | None = None
    base_digest: str | None = None

    def write(self, folder: Path) -> None:
        """Write the record into a folder that exists; the weights are the caller's."""
        values = {
            "peft_type": _TYPE,
            "format_version": _FORMAT_VERSION,
            "labels": list(self.labels),
            "dimensions": self.dimensions,
            "temperature": self.temperature,
            "metrics": dict(self.metrics),
            "base": self.base,
            "base_digest": self.base_digest,
        }
        text = json.dumps(values, indent=1, ensure_ascii=False) + "\n"
        (folder / CONFIG_FILE).write_text(text, encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> HeadRecord:
        """Of a folder.

        Raises:
            AdapterError: it holds no head, a damaged one, or one of a newer release.
        """
        file = folder / CONFIG_FILE
        try:
            values = read_object(file)
        except ModelLoadError as error:
            raise AdapterError(str(error)) from error
        if not is_head(values):
            raise AdapterError(
                f"{file} is of the kind {values.get('peft_type')!r} and no head; fit one with "
                "`ironcliw train head`, or take kind: head out of the setting"
            )
        if values.get("format_version") != _FORMAT_VERSION:
            raise AdapterError(
                f"{file} has format_version {values.get('format_version')!r}, and this release "
                f"reads {_FORMAT_VERSION}; upgrade ironcliw, or fit the head with this release"
            )
        return cls._checked(file, values)

    @classmethod
    def _checked(cls, file: Path, values: Mapping[str, Any]) -> HeadRecord:
        labels, dimensions = values.get("labels"), values.get("dimensions")
        temperature = values.get("temperature")
        if (
            not isinstance(labels, list)
            or not all(isinstance(label, str) for label in labels)
            or len(set(labels)) != len(labels)
            or len(labels) < 2
        ):
            raise AdapterError(f"{file}: labels must be two texts or more, each once; fit it again")
        if type(dimensions) is not int or dimensions < 1:
            raise AdapterError(
                f"{file}: dimensions is {dimensions!r}, and must be 1 or more; fit it again"
            )
        if not isinstance(temperature, int | float) or not 0 < temperature < math.inf:
            raise AdapterError(
                f"{file}: temperature is {temperature!r}, and must be above 0; fit it again"
            )
        metrics = values.get("metrics") or {}
        base, digest = values.get("base"), values.get("base_digest")
        if not all(each is None or isinstance(each, str) for each in (base, digest)):
            raise AdapterError(f"{file}: base and base_digest must be texts; fit it again")
        return cls(tuple(labels), dimensions, float(temperature), dict(metrics), base, digest)


def is_head(config: Mapping[str, Any]) -> bool:
    """Whether an adapter_config.json is that of a head."""
    return config.get("peft_type") == _TYPE
