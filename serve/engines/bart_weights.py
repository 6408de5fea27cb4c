"""BART's config and weights, for the compiled kernels.

D width, F inner width, V words, P positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from ironcliw.encoder_folder import EncoderFolder
from ironcliw.errors import ModelLoadError
from serve.engines.architecture import known_activation
from serve.engines.packed_weights import Affine, LayerWeights, joined, linear_of, norm_of
from serve.engines.weights import LoadCounter, Weights

NORM_EPSILON = 1e-5
"""Of every layer norm: torch.nn.LayerNorm's default, which BART keeps."""

_FIRST_POSITION = 2  # rows of the table before a text's first place, as in BART's first release
_ANCHOR = "encoder.layernorm_embedding.weight"
_WORD_TABLES = ("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")


@dataclass(frozen=True, slots=True)
class BartArchitecture:
    """Sizes and constants of a BART.

    Attributes:
        hidden: D.
        encoder_layers, decoder_layers: How many.
        encoder_heads, decoder_heads: Attention heads; each divides `hidden`.
        activation: `gelu`, `gelu_tanh` or `relu`.
        word_scale: What word vectors are multiplied with.
        end: The token that an answer is read at.
        decoder_start: The token that the decoder's input begins with.
    """

    hidden: int
    encoder_layers: int
    decoder_layers: int
    encoder_heads: int
    decoder_heads: int
    activation: str
    word_scale: float
    end: int
    decoder_start: int


def bart_like(config: Mapping[str, Any]) -> BartArchitecture | None:
    """The architecture when the compiled kernels compute it, None when transformers must.

    What a config leaves out has transformers' default.
    """
    activation = known_activation(config.get("activation_function", "gelu"))
    if config.get("model_type") != "bart" or activation is None:
        return None

    def size(name: str, default: int) -> int:
        given = config.get(name)
        return default if given is None else int(given)

    hidden = size("d_model", 1024)
    if size("decoder_layers", 12) < 1:
        return None
    return BartArchitecture(
        hidden=hidden,
        encoder_layers=size("encoder_layers", 12),
        decoder_layers=size("decoder_layers", 12),
        encoder_heads=size("encoder_attention_heads", 16),
        decoder_heads=size("decoder_attention_heads", 16),
        activation=activation,
        word_scale=hidden**0.5 if config.get("scale_embedding", False) else 1.0,
        end=size("eos_token_id", 2),
        decoder_start=size("decoder_start_token_id", 2),
    )


@dataclass(frozen=True, slots=True)
class DecoderLayerWeights:
    """One layer of the decoder; `kv` and `cross_kv` have key and value below each other."""

    q: Affine
    kv: Affine
    out: Affine
    norm: Affine
    cross_q: Affine
    cross_kv: Affine
    cross_out: Affine
    cross_norm: Affine
    up: Affine
    down: Affine
    last_norm: Affine


class BartWeights:
    """A BART's open files; as a context manager by `open_bart`. Everything comes in float32.

    Args:
        weights: The open files.
        architecture: What `bart_like` made of the config.
    """

    def __init__(self, weights: Weights, architecture: BartArchitecture) -> None:
        self._weights = weights
        self._architecture = architecture

    def words(self, dtype: torch.dtype) -> torch.Tensor:
        """Word vectors [V, D], scaled; encoder and decoder share them."""
        name = next((name for name in _WORD_TABLES if self._weights.has(name)), _WORD_TABLES[0])
        table = self._weights.take(name, -1, self._architecture.hidden, dtype=dtype)
        return (
            table if self._architecture.word_scale == 1 else table * self._architecture.word_scale
        )

    def places(self, side: str) -> torch.Tensor:
        """Position vectors [P, D] of the `encoder` or the `decoder`."""
        name = f"{side}.embed_positions.weight"
        return self._weights.take(name, -1, self._architecture.hidden)[_FIRST_POSITION:].clone()

    def embedding_norm(self, side: str) -> Affine:
        """The layer norm of the embeddings of the `encoder` or the `decoder`."""
        return self._norm(f"{side}.layernorm_embedding")

    def encoder_layers(self) -> Iterator[LayerWeights]:
        """Layer by layer, first to last; nothing is kept here."""
        for index in range(self._architecture.encoder_layers):
            at = f"encoder.layers.{index}"
            up, down = self._feed_forward(at)
            yield LayerWeights(
                qkv=self._joined(f"{at}.self_attn", "qkv"),
                attention_out=self._square(f"{at}.self_attn.out_proj"),
                attention_norm=self._norm(f"{at}.self_attn_layer_norm"),
                up=up,
                down=down,
                norm=self._norm(f"{at}.final_layer_norm"),
            )

    def decoder_layers(self) -> Iterator[DecoderLayerWeights]:
        """As `encoder_layers`."""
        for index in range(self._architecture.decoder_layers):
            at = f"decoder.layers.{index}"
            up, down = self._feed_forward(at)
            yield DecoderLayerWeights(
                q=self._square(f"{at}.self_attn.q_proj"),
                kv=self._joined(f"{at}.self_attn", "kv"),
                out=self._square(f"{at}.self_attn.out_proj"),
                norm=self._norm(f"{at}.self_attn_layer_norm"),
                cross_q=self._square(f"{at}.encoder_attn.q_proj"),
                cross_kv=self._joined(f"{at}.encoder_attn", "kv"),
                cross_out=self._square(f"{at}.encoder_attn.out_proj"),
                cross_norm=self._norm(f"{at}.encoder_attn_layer_norm"),
                up=up,
                down=down,
                last_norm=self._norm(f"{at}.final_layer_norm"),
            )

    def _feed_forward(self, at: str) -> tuple[Affine, Affine]:
        width = self._architecture.hidden
        up = linear_of(self._weights, f"{at}.fc1", -1, width)
        return up, linear_of(self._weights, f"{at}.fc2", width, len(up.bias))

    def _joined(self, at: str, parts: str) -> Affine:
        return joined([self._square(f"{at}.{part}_proj") for part in parts])

    def _square(self, name: str) -> Affine:
        width = self._architecture.hidden
        return linear_of(self._weights, name, width, width)

    def _norm(self, name: str) -> Affine:
        return norm_of(self._weights, name, self._architecture.hidden)


@contextmanager
def open_bart(
    folder: EncoderFolder, architecture: BartArchitecture, counter: LoadCounter | None
) -> Iterator[BartWeights]:
    """Open a folder's weights; they stay mapped until the block ends.

    Raises:
        ModelLoadError: heads do not divide the width, or the files are of another architecture.
    """
    for heads in (architecture.encoder_heads, architecture.decoder_heads):
        if heads < 1 or architecture.hidden % heads:
            raise ModelLoadError(
                f"{folder.transformer / 'config.json'}: {heads} attention heads do not divide "
                f"d_model, {architecture.hidden}; the file is damaged"
            )
    cpu = torch.device("cpu")
    with Weights(folder.tensors, _ANCHOR, torch.float32, cpu, counter) as weights:
        yield BartWeights(weights, architecture)
