"""Functions of `answer.yaml`: passages from a folder of texts, and those nearest to a question."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from actors.functions import function
from ironcliw.errors import RequestError

_MOST_PASSAGES = 2000


@function("knowledge.read", idempotent=True)
def read(folder: str) -> list[str]:
    """The paragraphs of every `.txt` and `.md` file below a folder, in the files' order.

    Raises:
        RequestError: there is no such folder, or no text in it.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise RequestError(f"{folder} is no folder of the head", param="folder")
    files = sorted(path for path in root.rglob("*") if path.suffix in {".txt", ".md"})
    texts = [
        passage.strip()
        for path in files
        for passage in path.read_text(encoding="utf-8", errors="replace").split("\n\n")
        if passage.strip()
    ]
    if not texts:
        raise RequestError(f"{folder} holds no .txt or .md file with text", param="folder")
    return texts[:_MOST_PASSAGES]


@function("knowledge.nearest", idempotent=True)
def nearest(
    texts: list[str] | None,
    passages: dict[str, Any] | None,
    question: dict[str, Any],
    top_k: int = 3,
) -> dict[str, Any]:
    """The passages whose vectors are nearest to the question's, by the cosine.

    Args:
        texts: The passages; None: none were read.
        passages: What the embed step gave for them.
        question: What the embed step gave for the question.
        top_k: At most so many.

    Returns:
        `passages`, the nearest first, each with `text` and `score`; and `text`, all of them.
    """
    if texts is None or passages is None:
        return {"passages": [], "text": ""}
    (wanted,) = question["embeddings"]
    scores = [_cosine(vector, wanted) for vector in passages["embeddings"]]
    order = sorted(range(len(texts)), key=lambda index: -scores[index])[:top_k]
    found = [{"text": texts[index], "score": round(scores[index], 4)} for index in order]
    return {"passages": found, "text": "\n\n".join(texts[index] for index in order)}


def _cosine(left: Sequence[float], right: Sequence[float]) -> float:
    product = sum(a * b for a, b in zip(left, right, strict=True))
    return product / (math.hypot(*left) * math.hypot(*right) or 1.0)
