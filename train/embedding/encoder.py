"""An embedding model in training: texts without padding through its layers, pooled as served.

Shapes: B texts, T tokens of all of them, D width of a token's vector.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ironcliw.encoder_folder import EncoderFolder, Normalize, Pooling
from ironcliw.errors import UnsupportedError
from train.copying import copy_folder
from train.model.adapters import causal_of
from train.model.packed_attention import STARTS

_OFFSET_POSITIONS = frozenset({"roberta", "xlm-roberta", "camembert"})
"""Whose positions begin behind the padding token's id."""
ARCHITECTURES = frozenset({"bert", "distilbert", *_OFFSET_POSITIONS})
"""Encoders whose attention is a plain one, which can be over packed rows."""
_WEIGHTS = frozenset({".safetensors", ".bin", ".pt", ".pth", ".onnx", ".h5", ".msgpack", ".ot"})
_FILE = "model.safetensors"

_POOLINGS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "mean": lambda rows: rows.mean(0),
    "cls": lambda rows: rows[0],
    "lasttoken": lambda rows: rows[-1],
    "max": lambda rows: rows.amax(0),
    "mean_sqrt_len_tokens": lambda rows: rows.sum(0) / len(rows) ** 0.5,
    "weightedmean": lambda rows: _weights(rows) @ rows,
}
"""Of one text, [T, D] to [D]; by the names of `ironcliw.encoder_folder.POOLING_MODES`."""


class Encoder(torch.nn.Module):
    """A transformer and the pooling that its folder names.

    Args:
        body: transformers' model or peft's, with attention over packed rows.
        folder: Of the model.
        pooler: A layer of the model that no embedding depends on: it is saved as it was.

    Attributes:
        body: As given.
        dimensions: D, times the number of pooling modes.
    """

    def __init__(
        self, body: Any, folder: EncoderFolder, pooler: torch.nn.Module | None = None
    ) -> None:
        super().__init__()
        self.body = body
        self._folder = folder
        # in a tuple: what torch does not see is not trained
        self._pooler = (pooler,)
        self._modes = pooling_of(folder)
        own = causal_of(body).config
        self._first = own.pad_token_id + 1 if own.model_type in _OFFSET_POSITIONS else 0
        self.dimensions = int(own.hidden_size) * len(self._modes)

    @property
    def device(self) -> torch.device:
        """Where it is."""
        device: torch.device = next(self.body.parameters()).device
        return device

    def forward(self, texts: Sequence[npt.NDArray[np.int32]]) -> torch.Tensor:
        """Vectors, float32 [B, dimensions], not normalised.

        Args:
            texts: Tokens of each, special ones included.
        """
        lengths = [len(text) for text in texts]
        starts = [0, *np.cumsum(lengths).tolist()]
        tokens = torch.from_numpy(np.concatenate(texts).astype(np.int64))
        places = np.arange(starts[-1]) - np.repeat(starts[:-1], lengths) + self._first
        given = {
            "input_ids": tokens.to(self.device)[None],
            "position_ids": torch.from_numpy(places).to(self.device)[None],
            STARTS: starts,
        }
        hidden = causal_of(self.body)(**given).last_hidden_state[0].float()
        # of autograd's own, each slice of a text would have a gradient as long as all texts
        rows = torch.split(hidden, lengths)
        return torch.stack([torch.cat([_POOLINGS[m](text) for m in self._modes]) for text in rows])

    def save(self, target: Path) -> None:
        """Write peft's files, or all of the model's folder with the weights as they are now.

        Args:
            target: A folder that exists.
        """
        if causal_of(self.body) is not self.body:
            self.body.save_pretrained(str(target), safe_serialization=True)
            return
        tensors = dict(self.body.state_dict())
        if self._pooler[0] is not None:
            kept = self._pooler[0].state_dict()
            tensors |= {f"pooler.{name}": tensor for name, tensor in kept.items()}
        save_whole(self._folder, tensors, target)


def save_whole(folder: EncoderFolder, tensors: Mapping[str, torch.Tensor], target: Path) -> None:
    """Write a model's folder with other weights of its transformer.

    Args:
        folder: Whose tokenizer, pooling and prompts it gets, and the weights behind the pooling.
        tensors: Of the transformer, by name.
        target: A folder that exists.
    """
    from safetensors.torch import save_file

    copy_folder(folder.path, target, _is_weights)
    for file in {tensor.file for tensor in folder.head_tensors}:
        shutil.copyfile(file, target / file.relative_to(folder.path))
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    inner = folder.transformer.relative_to(folder.path)
    save_file(whole, target / inner / _FILE, metadata={"format": "pt"})


def pooling_of(folder: EncoderFolder) -> tuple[str, ...]:
    """The pooling modes of a model that can be trained here.

    Raises:
        UnsupportedError: more follows its pooling than a normalisation, or it is no encoder whose
            attention can be replaced.
    """
    kind = folder.config.get("model_type")
    if kind not in ARCHITECTURES:
        raise UnsupportedError(
            f"{folder.path} is a {kind}; embeddings are trained of "
            f"{', '.join(sorted(ARCHITECTURES))}"
        )
    pooling, *rest = folder.head
    assert isinstance(pooling, Pooling), "a folder's first module behind the transformer pools"
    if other := [type(each).__name__ for each in rest if not isinstance(each, Normalize)]:
        raise UnsupportedError(
            f"{folder.path} has {' and '.join(other)} behind its pooling, which is not trained; "
            "take a model that has pooling and normalisation alone, such as all-MiniLM-L6-v2"
        )
    return pooling.modes


def _weights(rows: torch.Tensor) -> torch.Tensor:
    """Of token i, i; [T], summing to 1."""
    weights = torch.arange(1, len(rows) + 1, device=rows.device, dtype=rows.dtype)
    return weights / weights.sum()


def _is_weights(path: Path) -> bool:
    name = path.name
    return path.suffix in _WEIGHTS or name.endswith(".index.json") or name.startswith(".")
