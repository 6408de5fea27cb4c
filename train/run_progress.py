"""How a run's steps are shown: a bar on a terminal, else a line every ten seconds."""

from __future__ import annotations

import contextlib
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ironcliw import console
from train.loop.run import StepReport

_LINE_SECONDS = 10.0
_STEPS = 20
"""Speed and time left are means over so many steps."""
_ACCURACIES = frozenset({"reward_accuracy", "batch_accuracy"})
"""Of preferences, and of texts that are compared."""


@dataclass(frozen=True, slots=True)
class Shown:
    """What there is to say after a step.

    Attributes:
        report: Of the step.
        tokens_per_second: Of the last steps.
        seconds_left: To the end at that speed; saving and evaluation not counted.
        went_back: Whether the step was done before: a worker was lost in between.
    """

    report: StepReport
    tokens_per_second: float
    seconds_left: float
    went_back: bool

    def line(self) -> str:
        """E.g. `step 12 of 300, loss 1.2345, 340 tokens/s, 0:02:10 left`."""
        return f"step {self.report.step} of {self.report.steps}, {self.state()}"

    def state(self) -> str:
        """The same without the step."""
        accuracy = next(
            (value for name, value in self.report.measures.items() if name in _ACCURACIES), None
        )
        told = "" if accuracy is None else f"accuracy {accuracy:.2f}, "
        return (
            f"loss {self.report.loss:.4f}, {told}{self.tokens_per_second:.0f} tokens/s, "
            f"{clock(self.seconds_left)} left"
        )


class Meter:
    """Speed and time left, from the reports of a run's steps."""

    def __init__(self) -> None:
        self._last: deque[tuple[int, float]] = deque(maxlen=_STEPS)
        self._step = 0

    def add(self, report: StepReport) -> Shown:
        """What to show after one more step."""
        went_back = report.step <= self._step
        self._step = report.step
        self._last.append((report.tokens, report.seconds))
        seconds = max(1e-9, sum(each for _, each in self._last))
        speed = sum(tokens for tokens, _ in self._last) / seconds
        left = (report.steps - report.step) * seconds / len(self._last)
        return Shown(report, speed, left, went_back)


class Lines:
    """Picks the steps that get a line: the first, the last, and one every ten seconds."""

    def __init__(self) -> None:
        self._next = float("-inf")

    def due(self, shown: Shown, now: float) -> bool:
        """Whether to write one.

        Args:
            shown: The step.
            now: Seconds of any steady clock.
        """
        last = shown.report.step == shown.report.steps
        if now < self._next and not last and not shown.went_back:
            return False
        self._next = now + _LINE_SECONDS
        return True


def clock(seconds: float) -> str:
    """As `1:02:03`."""
    minutes, second = divmod(max(0, round(seconds)), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}"


@contextlib.contextmanager
def shown_progress() -> Iterator[Callable[[StepReport], None]]:
    """Show a run's steps on standard error.

    Yields:
        A function to call after each step, from any one thread.
    """
    from rich.console import Console

    screen = Console(file=sys.stderr)
    with _bar(screen) if screen.is_terminal else contextlib.nullcontext(_plain()) as show:
        meter = Meter()

        def report(step: StepReport) -> None:
            show(meter.add(step))

        yield report


def _plain() -> Callable[[Shown], None]:
    lines = Lines()

    def show(shown: Shown) -> None:
        if shown.went_back:
            console.note(_back(shown))
        if lines.due(shown, time.monotonic()):
            console.note(shown.line())

    return show


@contextlib.contextmanager
def _bar(screen: object) -> Iterator[Callable[[Shown], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    assert isinstance(screen, Console)
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=screen, transient=True) as bar:
        task = bar.add_task("the model is loaded", total=None)

        def show(shown: Shown) -> None:
            if shown.went_back:
                bar.console.print(_back(shown), markup=False, highlight=False)
            report = shown.report
            bar.update(
                task,
                completed=report.step,
                total=report.steps,
                description=shown.state(),
            )

        yield show


def _back(shown: Shown) -> str:
    return f"a worker was lost; the run goes on after step {shown.report.step - 1}"
