"""Learns how long an engine takes for a batch, so that waits can be told before they happen.

Model: seconds = fixed + per_token * tokens, fitted by least squares whose weights fade by a tenth
with each batch. Pure arithmetic; who measures the seconds is the caller's business.
"""

from __future__ import annotations

_GAIN = 0.1
"""Weight of the newest batch: the estimate follows a change within about ten batches."""

_PRIOR_TOKENS = 64.0
"""Spread of batch sizes (standard deviation) below which a slope is mostly noise.

It is the ridge of the fit, so that batches of nearly one size count as all fixed cost. Many lone
short requests then do not let a first long queue look ten times slower than it is; the first
large batches correct the opposite mistake within a second.
"""


_ODD_FACTOR = 5.0
_ODD_SECONDS = 0.1
"""A batch that takes over five times its estimate, and a tenth of a second more, is an outlier."""


class ServiceTime:
    """Estimated seconds of service, from observed batches; 0 until `learned`."""

    def __init__(self, max_batch_tokens: int) -> None:
        self._max_batch_tokens = max_batch_tokens
        self._observed = -1  # the first batch pays for loading and warming up: it is not counted
        self._tokens = self._seconds = 0.0  # faded means
        self._variance = self._covariance = 0.0
        self._odd = 0  # outliers in a row
        self._error = 0.0  # faded mean of the absolute error
        self.per_token = 0.0
        self.fixed = 0.0

    @property
    def learned(self) -> bool:
        """Whether anything is known."""
        return self._observed > 0

    def observe(self, tokens: int, seconds: float) -> None:
        """Learn from one finished batch: its tokens, and the seconds that it alone took."""
        self._observed += 1
        if not self.learned or self._is_outlier(tokens, seconds):
            return
        gain = max(_GAIN, 1 / self._observed)
        if self._observed > 1:
            self._error += gain * (abs(seconds - self.alone(tokens)) - self._error)
        tokens_off, seconds_off = tokens - self._tokens, seconds - self._seconds
        self._tokens += gain * tokens_off
        self._seconds += gain * seconds_off
        self._variance = (1 - gain) * (self._variance + gain * tokens_off**2)
        self._covariance = (1 - gain) * (self._covariance + gain * tokens_off * seconds_off)
        slope = self._covariance / (self._variance + _PRIOR_TOKENS**2)
        # neither cost can be negative
        self.per_token = min(max(slope, 0.0), self._seconds / self._tokens)
        self.fixed = max(0.0, self._seconds - self.per_token * self._tokens)

    def _is_outlier(self, tokens: int, seconds: float) -> bool:
        """Whether a batch took so long that something else must have happened: a reload, a lost
        replica. A second one in a row is taken for the truth."""
        odd = self._observed > 1 and seconds > _ODD_FACTOR * self.alone(tokens) + _ODD_SECONDS
        self._odd = self._odd + 1 if odd else 0
        return self._odd == 1

    @property
    def margin(self) -> float:
        """Seconds to add to an estimate that must hold: three mean absolute errors.

        That is 2.4 standard deviations of a normal error: about one promise in a hundred breaks.
        """
        return 3.0 * self._error

    def alone(self, tokens: int) -> float:
        """Seconds for these tokens sent with nothing else."""
        return self.fixed * max(1.0, tokens / self._max_batch_tokens) + self.per_token * tokens

    def queue(self, tokens: int) -> float:
        """Seconds for these tokens within full batches."""
        return self.fixed * tokens / self._max_batch_tokens + self.per_token * tokens
