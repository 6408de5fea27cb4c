"""The decisions of a language model: of the names of labels, the likeliest, found greedily."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch

from train.data.tokenized import TokenizedData

_BATCH = 64


class LabelTrie:
    """Which tokens may follow those of an answer.

    Args:
        labels: Token ids of every label, its end included.
    """

    def __init__(self, labels: Iterable[Sequence[int]]) -> None:
        self._next: dict[tuple[int, ...], set[int]] = {}
        for label in labels:
            for length in range(len(label)):
                self._next.setdefault(tuple(label[:length]), set()).add(label[length])
        self.longest = max(map(len, self._next), default=-1) + 1
        """Tokens of the longest label."""

    def after(self, answer: Sequence[int]) -> list[int]:
        """Token ids that go on with an answer; none where it is whole."""
        return sorted(self._next.get(tuple(answer), ()))


def split_row(data: TokenizedData, row: int) -> tuple[list[int], list[int]]:
    """Prompt and completion of a row as token ids."""
    found = data.row(row)
    asked = int(np.argmax(found.supervised))
    tokens = found.tokens.tolist()
    return tokens[:asked], tokens[asked:]


def accuracy(model: Any, data: TokenizedData, trie: LabelTrie) -> float:
    """Share of the rows whose label is what the model answers."""
    rows = [split_row(data, row) for row in range(len(data))]
    # of one length together: padding would be computed for nothing
    rows.sort(key=lambda pair: len(pair[0]))
    right = 0
    for first in range(0, len(rows), _BATCH):
        part = rows[first : first + _BATCH]
        answers = _answers(model, [prompt for prompt, _ in part], trie)
        right += sum(answer == label for answer, (_, label) in zip(answers, part, strict=True))
    return right / len(rows)


@torch.inference_mode()
def _answers(model: Any, prompts: Sequence[list[int]], trie: LabelTrie) -> list[list[int]]:
    longest = max(map(len, prompts))
    tokens = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])

    def allowed(_: int, sequence: torch.Tensor) -> list[int]:
        # a whole answer is followed by padding until all are
        return trie.after(sequence[longest:].tolist()) or [0]

    made = model.generate(
        input_ids=tokens,
        attention_mask=mask,
        max_new_tokens=trie.longest,
        do_sample=False,
        pad_token_id=0,
        prefix_allowed_tokens_fn=allowed,
    )
    found = []
    for row in made[:, longest:].tolist():
        answer: list[int] = []
        for token in row:
            if token not in trie.after(answer):
                break
            answer.append(token)
        found.append(answer)
    return found
