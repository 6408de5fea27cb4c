"""What every command shares: exit codes, tables, JSON, notes and progress bars.

Results go to standard output; errors, notes and progress go to standard error, so that a pipe
sees results alone. Rich is imported when something is drawn, never at start.

Exit codes:

    0    done
    1    it failed, for a reason that lies with the machine, the server or the network
    2    wrong usage: an unknown command or option
    3    nothing runs: start it with `ironcliw up`
    4    the request, a setting or the data is wrong: the same command will fail again
    130  interrupted by Ctrl-C
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ironcliw.errors import DataError, IroncliwError, NotRunningError, SettingsError

if TYPE_CHECKING:
    from ironcliw.settings import Settings

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_NOT_RUNNING = 3
EXIT_BAD_REQUEST = 4
EXIT_INTERRUPTED = 130

_SENDERS_FAULT = frozenset({"invalid_request_error", "authentication_error", "permission_error"})
_MEGABYTE = 1_000_000


def exit_code(error: IroncliwError) -> int:
    """The exit code of an error, as listed at the top of this module."""
    if isinstance(error, NotRunningError):
        return EXIT_NOT_RUNNING
    if isinstance(error, SettingsError | DataError) or error.kind in _SENDERS_FAULT:
        return EXIT_BAD_REQUEST
    return EXIT_FAILED


def report_error(error: IroncliwError, *, as_json: bool) -> int:
    """Write one line about the error to standard error and return its exit code.

    Args:
        error: What went wrong.
        as_json: Write the body that the HTTP interface would answer, as one line of JSON.
    """
    # a message with a line break would no longer be one line
    text = json.dumps(error.body()) if as_json else "error: " + " ".join(error.message.split())
    sys.stderr.write(text + "\n")
    return exit_code(error)


def note(text: str) -> None:
    """Tell the person at the terminal something that is not the result."""
    sys.stderr.write(text + "\n")


def write_line(text: str) -> None:
    """Write one line of the result."""
    sys.stdout.write(text + "\n")


def write_json(value: Any) -> None:
    """Write a result as indented JSON."""
    write_line(json.dumps(value, indent=2, default=str))


def write_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Draw a table on standard output; numbers are set to the right, None is a dash.

    Args:
        columns: The headings.
        rows: A value for each heading. A column is set to the right where it holds a number.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    cells = [list(row) for row in rows]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, heading in enumerate(columns):
        numeric = any(_is_number(row[index]) for row in cells)
        table.add_column(heading, justify="right" if numeric else "left", overflow="fold")
    for row in cells:
        table.add_row(*(Text(_cell(value)) for value in row))
    console = Console(file=sys.stdout)
    if not console.is_terminal:
        # a pipe has no width: rich would wrap at 80 columns and so tear rows apart
        console.width = 10_000
    console.print(table)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def megabytes(count: int | None) -> str | None:
    """Bytes as whole megabytes for a table, e.g. `91 MB`; None where nothing is known."""
    return f"{count / _MEGABYTE:,.0f} MB" if count else None


def held(resident_bytes: int, kv_bytes: int) -> str | None:
    """What a loaded model counts for, e.g. `269 MB + 537 MB KV`: weights, and the KV cache's limit.

    Args:
        resident_bytes: Of both together.
        kv_bytes: The most that the KV cache may grow to.
    """
    weights, cache = megabytes(resident_bytes - kv_bytes), megabytes(kv_bytes)
    return f"{weights or '0 MB'} + {cache} KV" if cache else weights


def precision_in_use(name: str | None, reason: str | None) -> str | None:
    """What a model computes in, marked where that is not the precision that is set."""
    return f"{name} (not as set)" if reason else name


@contextlib.contextmanager
def progress(description: str, total: float) -> Iterator[Callable[..., None]]:
    """Show a progress bar on standard error, where that is a terminal.

    Args:
        description: What goes on.
        total: The amount at which it is done, in any unit.

    Yields:
        A function to call with the amount done so far and, if it changed, a new description.
    """
    from rich.console import Console
    from rich.progress import Progress

    console = Console(file=sys.stderr)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(description, total=total)

        def update(done: float, text: str | None = None) -> None:
            bar.update(task, completed=done, description=text)

        yield update


def command_settings() -> Settings:
    """Settings for a command, with the logs sent where they say."""
    from ironcliw.logs import configure
    from ironcliw.settings import load_settings

    settings = load_settings()
    configure(settings.log)
    return settings
