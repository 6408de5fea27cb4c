"""LoRA adapters of encoders of the BERT family: their files, brought into the kernels' form."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ironcliw.errors import AdapterError
from native_ops.decoder_adapters import LowRank
from native_ops.encoder_adapters import (
    PARTS,
    EncoderSizes,
    PackedEncoderAdapter,
    Place,
    pack_encoder_adapter,
)
from native_ops.encoder_layout import qkv_number
from serve.engines.architecture import Architecture
from serve.engines.peft_files import low_rank, read_config, read_modules


@dataclass(frozen=True, slots=True, eq=False)
class EncoderAdapter:
    """An adapter in memory.

    Attributes:
        packed: What it adds to the matrices that it changes, its scale inside of B.
        precision: Of its numbers.
    """

    packed: PackedEncoderAdapter
    precision: str
    device: str = "cpu"

    @property
    def resident_bytes(self) -> int:
        """Held in memory."""
        return self.packed.nbytes

    def close(self) -> None:
        """Nothing to do: the memory goes with the last batch that uses it."""


def read_encoder_adapter(
    architecture: Architecture, sizes: EncoderSizes, folder: Path
) -> EncoderAdapter:
    """An adapter's files for an encoder; blocking, for tens of milliseconds.

    Args:
        architecture: Of the encoder.
        sizes: Of its layers.
        folder: With adapter_config.json and adapter_model.safetensors.

    Raises:
        AdapterError: damaged files, another kind of adapter, or not one of this model.
    """
    config = read_config(folder)
    # read without what stands before GPT-2's names, and DistilBERT's
    modules = {_short(name): halves for name, halves in read_modules(folder).items()}
    changes: dict[Place, LowRank] = {}
    used: set[str] = set()
    for layer in range(sizes.layers):
        names = architecture.layer(layer)
        own = (names.query, names.key, names.value, names.attention_out, names.up, names.down)
        for part, name in zip(PARTS, own, strict=True):
            if (halves := modules.get(_short(name))) is not None:
                changes[layer, part] = low_rank(folder, config, name, halves, *sizes.of(part))
                used.add(_short(name))
    if unused := sorted(modules.keys() - used):
        raise AdapterError(
            f"{folder}: it changes {unused[0]}, which is no matrix of a layer of this model; it "
            "belongs to another model, or changes the embedding: train it on this model's layers"
        )
    try:
        packed = pack_encoder_adapter(sizes, changes)
    except ValueError as error:
        raise AdapterError(
            f"{folder}: {error}; it belongs to another model, or its files are damaged"
        ) from error
    return EncoderAdapter(packed, qkv_number(sizes.number))


def _short(name: str) -> str:
    return name.removeprefix("transformer.")
