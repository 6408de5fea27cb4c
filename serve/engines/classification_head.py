"""What stands between the row that a sequence classifier reads and its logits, always in float32.

B texts, D width, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ironcliw.encoder_folder import EncoderFolder
from ironcliw.errors import ModelLoadError
from serve.engines.packed_weights import Affine, linear_of
from serve.engines.weights import LoadCounter, Weights


@dataclass(frozen=True, slots=True)
class HeadNames:
    """Names of a head's parts; `.weight` and `.bias` follow.

    Attributes:
        dense: A dense layer as wide as the row; BERT's is a part of its encoder.
        out: From there to the logits.
        activation: Between the two.
    """

    dense: str
    out: str
    activation: Callable[[torch.Tensor], torch.Tensor]


_ROBERTA = HeadNames("classifier.dense", "classifier.out_proj", torch.tanh)
# in transformers' modelling files: the ...ForSequenceClassification of each architecture
_HEADS: Mapping[str, HeadNames] = {
    "bert": HeadNames("pooler.dense", "classifier", torch.tanh),
    "distilbert": HeadNames("pre_classifier", "classifier", torch.relu),
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "bart": HeadNames("classification_head.dense", "classification_head.out_proj", torch.tanh),
}


class ClassificationHead:
    """A dense layer, an activation, and the layer of the logits.

    Args:
        folder: The model's folder; its `model_type` must be of the BERT family or `bart`.
        width: D.
        counter: Told of the weights that are taken.

    Raises:
        ModelLoadError: the folder has no such head, or one of another shape.
    """

    def __init__(self, folder: EncoderFolder, width: int, counter: LoadCounter | None) -> None:
        names = _HEADS[str(folder.config["model_type"])]
        self._activation = names.activation
        _check(folder, names)
        self._out = _taken(folder, names.out, -1, width, counter)
        self._dense = _taken(folder, names.dense, width, width, counter)
        self.labels = _labels(folder, len(self._out.bias))
        """Names of the C classes."""

    @property
    def resident_bytes(self) -> int:
        """Bytes of both layers."""
        return sum(part.weight.nbytes + part.bias.nbytes for part in (self._dense, self._out))

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """Float32 [B, D] to logits, float32 [B, C]."""
        inner = self._activation(F.linear(rows, self._dense.weight, self._dense.bias))
        return F.linear(inner, self._out.weight, self._out.bias)


def _check(folder: EncoderFolder, names: HeadNames) -> None:
    wanted = [f"{name}.{part}" for name in (names.dense, names.out) for part in ("weight", "bias")]
    stored = folder.tensors
    missing = [
        name
        for name in wanted
        if not any(have == name or have.endswith("." + name) for have in stored)
    ]
    if missing:
        raise ModelLoadError(
            f"{folder.transformer} lacks {len(missing)} tensors of a classifier, first "
            f"{sorted(missing)[0]!r}: it was not trained to classify, or the download is incomplete"
        )


def _taken(
    folder: EncoderFolder, name: str, outputs: int, inputs: int, counter: LoadCounter | None
) -> Affine:
    cpu = torch.device("cpu")
    with Weights(folder.tensors, f"{name}.weight", torch.float32, cpu, counter) as weights:
        return linear_of(weights, name, outputs, inputs)


def _labels(folder: EncoderFolder, classes: int) -> tuple[str, ...]:
    named = folder.config.get("id2label")
    if not isinstance(named, Mapping) or not named:
        return tuple(f"LABEL_{index}" for index in range(classes))
    labels = {str(index): str(label) for index, label in named.items()}
    if sorted(labels) != sorted(str(index) for index in range(classes)):
        raise ModelLoadError(
            f"{folder.transformer / 'config.json'}: id2label names {len(labels)} classes "
            f"({', '.join(sorted(labels))[:60]}) and the weights have {classes}, from 0 on; "
            "correct the file or download it again"
        )
    return tuple(labels[str(index)] for index in range(classes))
