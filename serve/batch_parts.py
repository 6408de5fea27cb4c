"""A batch of texts under several adapters, of which one cannot be had: each part by itself."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from ironcliw.errors import (
    AdapterError,
    IroncliwError,
    MemoryBudgetError,
    ModelNotFoundError,
    UnsupportedError,
)
from serve.engines.protocol import AdaptedTokens, Tokens

Item = Tokens | AdaptedTokens

APART = (AdapterError, MemoryBudgetError, ModelNotFoundError, UnsupportedError)
"""What one adapter of a batch may have that the others, and the base, have not."""

logger = logging.getLogger(__name__)


def by_adapter(sequences: Sequence[Item]) -> list[list[int]]:
    """Places of the sequences under each adapter, and of those under none."""
    parts: dict[Any, list[int]] = {}
    for at, sequence in enumerate(sequences):
        adapter = sequence.adapter if isinstance(sequence, AdaptedTokens) else None
        parts.setdefault(adapter, []).append(at)
    return list(parts.values())


async def run_in_parts(
    run: Callable[[list[Item]], Awaitable[Any]], sequences: list[Item]
) -> Sequence[Any]:
    """What `run` gives for each sequence; where adapters stand in each other's way, an error.

    Args:
        run: Sends sequences to the engine; raises one of `APART` for all of them.
        sequences: Of one batch.

    Returns:
        A result, or the error of its part, for each.

    Raises:
        IroncliwError: all are of one part, or the error has nothing to do with adapters.
    """
    try:
        whole: Sequence[Any] = await run(sequences)
        return whole
    except APART as error:
        parts = by_adapter(sequences)
        if len(parts) < 2:
            raise
        logger.warning("a batch of %d parts failed, to run apart: %r", len(parts), error)
    found: list[Any] = [None] * len(sequences)
    for part in parts:
        results: Sequence[Any]
        try:
            results = await run([sequences[at] for at in part])
        except APART as error:
            results = [error] * len(part)
        for at, result in zip(part, results, strict=True):
            found[at] = result
    return found


def failed(results: Sequence[Any], owners: Sequence[int]) -> dict[int, IroncliwError]:
    """The owners of results that are errors, and their errors.

    Args:
        results: Of `run_in_parts`.
        owners: The request that each is of.
    """
    pairs = zip(results, owners, strict=True)
    return {owner: result for result, owner in pairs if isinstance(result, IroncliwError)}
