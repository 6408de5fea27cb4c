"""Learns how long steps take, to tell how much of a prompt fits beside running streams.

Model: a step with d streams and p prompt tokens takes decode(d) + cost * p seconds. decode(d) is
the median of the recent steps with d streams and nothing else; `cost` is a faded mean over the
steps that had both. It is measured where it is used, so whatever is not linear in it (a chunk
smaller than the hardware likes, attention over a longer prefix) corrects itself within a few steps.

Pure arithmetic; who measures the seconds is the caller's business.
"""

from __future__ import annotations

from collections import deque

_RECENT = 15
"""Steps whose median counts: a page fault or a collection of garbage in a few of them is not
seen, and a change of the load is followed within eight."""

_FALL, _RISE = 0.3, 0.7
"""Weight of the newest step in `cost` where it was cheaper, and dearer: prompts are few and mostly
over in ten steps, and a chunk too long stalls somebody while one too short does not."""

_GROWTH = 2
"""A chunk beside streams is at most so many times the last ones. Seconds of single steps are noisy:
a small chunk that seems to cost nothing must not be followed by one that takes a second."""

_ODD_FACTOR = 4.0
"""A cost over four times the mean is an outlier: a kernel compiled for a new shape, or a reload.
The second in a row is believed."""


class StepTime:
    """Estimated seconds of steps; None until something is known."""

    def __init__(self) -> None:
        self._decodes: dict[int, deque[float]] = {}
        self._cost: float | None = None
        self._beside = False  # whether `_cost` comes from steps that had streams too
        self._odd = False
        # beside streams; two, since a prompt's last chunk is small for another reason
        self._chunks: deque[int] = deque(maxlen=2)

    def observe(self, streams: int, prompt_tokens: int, seconds: float) -> None:
        """Learn from a finished step.

        Args:
            streams: Sequences that decoded one token each.
            prompt_tokens: Tokens of prompt chunks.
            seconds: What the step took.
        """
        if prompt_tokens:
            self._observe_prompt(streams, prompt_tokens, seconds)
        elif streams:
            self._decodes.setdefault(streams, deque(maxlen=_RECENT)).append(seconds)

    def decode(self, streams: int) -> float | None:
        """Seconds of a step with so many streams and no prompt.

        A number never seen is given the most that those seen allow for certain: more streams take
        no less time, and a part of the streams at least their share of it.
        """
        if recent := self._decodes.get(streams):
            return _median(recent)
        if not self._decodes:
            return None
        return max(
            _median(recent) * min(1.0, streams / seen) for seen, recent in self._decodes.items()
        )

    def prompt_tokens(self, streams: int, stall: float) -> int | None:
        """Most prompt tokens for which a step takes `stall` times one without; None: unknown."""
        alone = self.decode(streams)
        if alone is None or self._cost is None:
            return None
        fitting = int((stall - 1) * alone / max(self._cost, 1e-9))
        return min(fitting, _GROWTH * max(self._chunks)) if self._chunks else fitting

    def _observe_prompt(self, streams: int, prompt_tokens: int, seconds: float) -> None:
        alone = self.decode(max(streams, 1)) or 0.0
        cost = max(0.0, seconds - alone) / prompt_tokens
        if streams:
            self._chunks.append(prompt_tokens)
        if streams and not self._beside:
            # until now only steps without streams were known, of much larger chunks
            self._cost, self._beside = cost, True
            return
        if self._beside and not streams:
            return
        self._odd = not self._odd and self._cost is not None and cost > _ODD_FACTOR * self._cost
        if not self._odd:
            known = cost if self._cost is None else self._cost
            self._cost = known + (_RISE if cost > known else _FALL) * (cost - known)


def _median(values: deque[float]) -> float:
    # the lower one of an even number: the first steps of a shape are the slow ones
    return sorted(values)[(len(values) - 1) // 2]
