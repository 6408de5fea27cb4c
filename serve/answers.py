"""From vectors to the bytes of an HTTP answer.

FastAPI's encoder takes 2 ms for one embedding of 384 floats; orjson takes 15 microseconds.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson

from serve.engines.protocol import Vectors


def shorten(vectors: Vectors, dimensions: int | None) -> Vectors:
    """Keep the first `dimensions` of each vector [B, D] and give it length 1 again.

    What Matryoshka-trained models are made for (Kusupati et al. 2022, arXiv:2205.13147).
    """
    if dimensions is None or dimensions == vectors.shape[1]:
        return vectors
    cut = vectors[:, :dimensions]
    norms = np.linalg.norm(cut, axis=1, keepdims=True)
    result: Vectors = cut / np.maximum(norms, np.float32(1e-12))
    return result


def embedding_body(
    vectors: Vectors,
    model: str,
    prompt_tokens: int,
    truncated: Sequence[tuple[int, int]],
    encoding: str,
) -> bytes:
    """JSON of an `EmbeddingResponse`.

    Args:
        vectors: float32 [B, D].
        model: Model id.
        prompt_tokens: Tokens over all inputs.
        truncated: (index, dropped tokens) of each input that was cut.
        encoding: `float` or `base64`.
    """
    data = [
        {"object": "embedding", "index": index, "embedding": _encode(row, encoding)}
        for index, row in enumerate(vectors)
    ]
    answer: dict[str, Any] = {
        "object": "list",
        "data": data,
        "model": model,
        "usage": {"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens},
    }
    if truncated:
        answer["truncated"] = [
            {"index": index, "dropped_tokens": dropped} for index, dropped in truncated
        ]
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)


def _encode(row: Any, encoding: str) -> Any:
    if encoding == "base64":
        return base64.b64encode(row.astype("<f4", copy=False).tobytes()).decode()
    return row
