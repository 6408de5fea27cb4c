"""Functions of `documents.yaml`: batches of a JSONL file, their vectors, and the file of all."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from actors.functions import function
from ironcliw.client import DEFAULT_MODEL, Client
from ironcliw.errors import RequestError


@function("documents.batches", idempotent=True)
def batches(source: str, size: int = 32) -> list[dict[str, int]]:
    """Where each batch begins, and how many documents it has.

    Raises:
        RequestError: the file cannot be read, a line is no document, or the size is below 1.
    """
    if size < 1:
        raise RequestError(f"the batch is {size}; give 1 document or more", param="size")
    count = sum(1 for _ in _texts(source))
    return [{"start": start, "count": min(size, count - start)} for start in range(0, count, size)]


@function("documents.embed", idempotent=True)
def embed(source: str, start: int, count: int, model: str = DEFAULT_MODEL) -> dict[str, Any]:
    """Vectors of some documents, from the head's service.

    Args:
        source: The JSONL file.
        start: The first of them, counted from 0.
        count: How many.
        model: An embedding model.
    """
    texts = list(itertools.islice(_texts(source), start, start + count))
    with Client() as client:
        answer = client.embed(texts, model=model, priority="low")
    return {"start": start, "texts": texts, "vectors": answer.vectors}


@function("documents.write", idempotent=True)
def write(parts: list[dict[str, Any]], target: str) -> dict[str, Any]:
    """Write a line of `text` and `vector` a document, in the documents' order, in one move."""
    path = Path(target)
    draft = path.with_name(path.name + ".new")
    count = 0
    with draft.open("w", encoding="utf-8") as lines:
        for part in sorted(parts, key=lambda one: one["start"]):
            for text, vector in zip(part["texts"], part["vectors"], strict=True):
                lines.write(json.dumps({"text": text, "vector": vector}) + "\n")
                count += 1
    os.replace(draft, path)
    return {"documents": count, "target": target}


def _texts(source: str) -> Iterator[str]:
    """The documents' texts, one after the other."""
    try:
        with open(source, encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield _text(line, f"{source}:{number}")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{source} cannot be read: {error}", param="source") from error


def _text(line: str, where: str) -> str:
    try:
        text = json.loads(line)["text"]
    except (ValueError, KeyError, TypeError) as error:
        raise RequestError(f"{where}: no document ({error!r}): a line has a `text`") from error
    if not isinstance(text, str) or not text:
        raise RequestError(f"{where}: `text` is no text, or an empty one")
    return text
