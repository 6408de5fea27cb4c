"""The `ironcliw` command. Each folder owns its commands; this file only mounts them.

Convention: the attribute `NAME` of a folder's `commands.py` is a `typer.Typer` that holds the
command `NAME`. The module is imported when its command runs, so that `ironcliw --help` loads
neither Rich nor any of the libraries behind the commands. A command
calls `console.command_settings()` first, which also sends the logs where the settings say, and
raises the errors of `ironcliw.errors`: `main` writes them and picks the exit code
(`ironcliw.console`).
"""

from __future__ import annotations

import dataclasses
import importlib
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from ironcliw import __version__
from ironcliw.errors import IroncliwError, UnsupportedError


@dataclasses.dataclass(frozen=True, slots=True)
class Mount:
    """Where a command lives.

    Attributes:
        module: Dotted name of the module with the Typer app.
        attribute: Name of the app in it.
        help: One line for `ironcliw --help`.
        extra: The optional dependencies that the command needs.
    """

    module: str
    attribute: str
    help: str
    extra: str = "local"


COMMANDS = {
    "up": Mount("cluster.commands", "up", "Start or join the head and serve the models."),
    "down": Mount("cluster.commands", "down", "Stop all that `up` started."),
    "status": Mount("cluster.commands", "status", "Nodes, models, memory, what is degraded."),
    "doctor": Mount("cluster.doctor.command", "doctor", "What is wrong here, and what to do."),
    "cluster": Mount("cluster.config_command", "cluster", "Render and check ray_cluster.yaml."),
    "env": Mount("cluster.commands", "env", "Shell lines that point Ray's tools at the head."),
    "models": Mount("serve.commands", "models", "List, load and unload models."),
    "embed": Mount("serve.commands", "embed", "Embed texts."),
    "decide": Mount("serve.decide_command", "decide", "Choose the label that fits a text."),
    "chat": Mount("serve.chat_command", "chat", "Ask a model, once or in a conversation."),
    "cost": Mount("cluster.money.cost_command", "cost", "What the cloud has cost and may cost."),
    "keys": Mount("serve.commands", "keys", "Create, list and revoke API keys."),
    "state": Mount("ironcliw.state_commands", "state", "Back up and restore the state store."),
    "agents": Mount("actors.commands_agents", "agents", "Start and look after agents."),
    "workflow": Mount("actors.commands_workflow", "workflow", "Run durable workflows."),
    "route": Mount("rl.commands", "route", "Learn where steps run, and see why."),
    "train": Mount("train.commands", "train", "Train models on your own data.", "train"),
    "bench": Mount("benchmarks.commands", "bench", "Measure against other servers.", "bench"),
}
OUR_PACKAGES = frozenset(
    {"actors", "benchmarks", "cluster", "ironcliw", "native_ops", "rl", "serve", "train"}
)
_COMPLETION = frozenset({"install_completion", "show_completion"})


class _LazyGroup(TyperGroup):
    """Knows each command's name and help; loads the command itself when it is called."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        if name is not None and name in COMMANDS:
            mount = COMMANDS[name]
            module = importlib.import_module(mount.module)
            command = get_command(getattr(module, mount.attribute))
            # Typer gives these to every app; completion belongs to a program, not to its commands
            command.params = [one for one in command.params if one.name not in _COMPLETION]
        return name, command, rest


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ironcliw {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """One Ray cluster from a laptop to Spot: serve, train and operate models."""


def _placeholder() -> None:
    """Stands for a command in the help; `_LazyGroup` runs the real one."""
    raise AssertionError("a placeholder was run")


def build() -> Any:
    """The root command with a placeholder for each entry of `COMMANDS`."""
    # without markup Typer formats the help itself: Rich would cost 0.1 s at each start
    app = typer.Typer(
        cls=_LazyGroup, rich_markup_mode=None, add_completion=False, no_args_is_help=True
    )
    app.callback()(_root)
    for name, mount in COMMANDS.items():
        app.command(name, help=mount.help)(_placeholder)
    return get_command(app)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command line and exit with its code.

    Args:
        arguments: Words after `ironcliw`; None: those of this process.

    Raises:
        SystemExit: always; the code is one of those in `ironcliw.console`.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    from ironcliw.console import EXIT_INTERRUPTED, report_error

    try:
        build().main(args=words, prog_name="ironcliw")
    except IroncliwError as error:
        sys.exit(report_error(error, as_json=_wants_json(words)))
    except ModuleNotFoundError as error:
        sys.exit(report_error(_missing(error, words), as_json=_wants_json(words)))
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)


def _wants_json(words: list[str]) -> bool:
    """Whether `--json` is among the options; what follows `--` is no option."""
    return "--json" in words[: words.index("--") if "--" in words else len(words)]


def _missing(error: ModuleNotFoundError, words: list[str]) -> UnsupportedError:
    """An optional dependency is absent; one of our own modules would be a bug, and is raised."""
    package = (error.name or "").partition(".")[0]
    mount = next((COMMANDS[word] for word in words if word in COMMANDS), None)
    if mount is None or not package or package in OUR_PACKAGES:
        raise error
    return UnsupportedError(
        f"this command needs the package {package!r}, which is not installed; run "
        f"`pip install 'ironcliw[{mount.extra}]'`"
    )


if __name__ == "__main__":
    main()
