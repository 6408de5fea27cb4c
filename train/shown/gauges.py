"""A run's numbers as Ray exports them: in its dashboard, for Prometheus and Grafana."""

from __future__ import annotations

from ray.util.metrics import Gauge

from train.loop.run import StepReport

_GAUGES = {
    "step": "Optimizer steps done.",
    "steps": "Optimizer steps of the whole run.",
    "loss": "Mean loss of the last step's supervised tokens.",
    "gradient_norm": "Norm of the last step's gradient, before it was cut.",
    "learning_rate": "Of the last step.",
    "tokens_per_second": "Of the last step, saving and evaluation not counted.",
    "attempts": "Starts of the run's workers that did a step, as seen by this driver.",
    "steps_lost": "Steps that were done again after a worker was lost.",
    "checkpoint_seconds": "From a snapshot to its being durable, at the newest save.",
}


class RunGauges:
    """Follows the reports of one run; made in the process that waits for it.

    Args:
        run: Its name, the label of all gauges.
    """

    def __init__(self, run: str) -> None:
        self._tags = {"run": run}
        self._gauges = {
            name: Gauge(f"ironcliw_train_{name}", about, ("run",))
            for name, about in _GAUGES.items()
        }
        self._step = 0
        self._attempts = 0
        self._lost = 0

    def add(self, report: StepReport) -> None:
        """After each step."""
        if report.of_attempt == 1:
            self._attempts += 1
            self._lost += max(0, self._step - (report.step - 1))
        self._step = report.step
        values = {
            "step": report.step,
            "steps": report.steps,
            "loss": report.loss,
            "gradient_norm": report.norm,
            "learning_rate": report.learning_rate,
            "tokens_per_second": report.tokens / max(1e-9, report.seconds),
            "attempts": self._attempts,
            "steps_lost": self._lost,
            "checkpoint_seconds": report.save_seconds,
        }
        for name, value in values.items():
            if value is not None:
                self._gauges[name].set(float(value), tags=self._tags)
