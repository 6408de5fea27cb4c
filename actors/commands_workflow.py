"""`ironcliw workflow`: submit, list, look, steer and follow."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from actors.workflow_lines import error_lines, event_lines, output_line
from ironcliw import console
from ironcliw.client import Client
from ironcliw.errors import IroncliwError, RequestError

if TYPE_CHECKING:
    from ironcliw.schemas.workflows import WorkflowEvent, WorkflowView

workflow = typer.Typer(help="Run durable workflows.", no_args_is_help=True)

Id = Annotated[str, typer.Argument(metavar="ID", help="As `ironcliw workflow list` shows it.")]
StepName = Annotated[str, typer.Argument(metavar="STEP", help="Name of the step.")]
Item = Annotated[
    int | None, typer.Option(help="Which item of a fan-out, from 0; else all uncertain.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_DASH = "-"
_STATUSES = "running, paused, uncertain, failing, cancelling, completed, failed and cancelled"


@workflow.callback()
def _workflow() -> None:
    """Run durable workflows."""


@workflow.command("submit")
def submit(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The definition, YAML or JSON.")],
    given: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            metavar="NAME=VALUE",
            help="JSON where it is JSON, else a text; NAME=@FILE reads a file of JSON; repeatable.",
        ),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(
            help="Names this submission: again with the same FILE and inputs it gives the workflow "
            "that there is, with others it is refused."
        ),
    ] = None,
    priority: Annotated[
        str | None, typer.Option(help="critical, high, normal or low; else as FILE says.")
    ] = None,
    deadline: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="For all of it, from now; else as FILE says."),
    ] = None,
    follow: Annotated[
        bool,
        typer.Option(
            "--follow",
            help="Print events until its end, then its output; exit with 1 unless it completed. "
            "Ctrl-C ends the printing alone.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Start a workflow, which goes on whatever becomes of this command."""
    console.command_settings()
    # YAML comes with the head's requirements, and not with the base install
    from actors.workflow.yaml_file import load_definition

    definition, inputs = load_definition(file).source, _inputs(given or [])
    wanted: Any = priority
    with Client() as client:
        view = client.submit_workflow(
            definition, inputs, key=key, priority=wanted, deadline_seconds=deadline
        )
        if follow:
            for event in client.workflow_events(view.id):
                _write_event(event, view.id, as_json=as_json)
            view = client.workflow(view.id)
    if follow and not as_json:
        console.write_line(f"{view.id} {view.status}")
        if view.status == "completed":
            console.write_line(output_line(view))
    elif not follow:
        _write_change(view, as_json=as_json)
    if follow and view.status != "completed":
        raise typer.Exit(console.EXIT_FAILED)


@workflow.command("list")
def list_workflows(
    status: Annotated[str | None, typer.Option(help=f"One of {_STATUSES}.")] = None,
    name: Annotated[
        str | None, typer.Option(help="Of the definition, as its `name:` says.")
    ] = None,
    limit: Annotated[int, typer.Option(help="At most so many.")] = 20,
    before: Annotated[
        str | None, typer.Option(help="Only those older than this id, for the next page.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List workflows, the newest first."""
    console.command_settings()
    with Client() as client:
        found = client.workflows(status=status, name=name, limit=limit, before=before)
    if as_json:
        console.write_json([view.model_dump() for view in found])
        return
    now = time.time()
    rows = ((one.id, one.name, one.status, one.owner, _age(now - one.created_at)) for one in found)
    console.write_table(("id", "name", "status", "owner", "age"), rows)


@workflow.command("show")
def show(
    workflow_id: Id,
    outputs: Annotated[
        bool, typer.Option("--outputs", help="Print what each step gave, too.")
    ] = False,
    svg: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Only draw it, as SVG; `-`: to standard output."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show a workflow: its steps, its errors and what to do about them, its output."""
    console.command_settings()
    with Client() as client:
        view = client.workflow(workflow_id, outputs=outputs)
    if svg is not None:
        _draw(view, svg)
        return
    if as_json:
        console.write_json(view.model_dump(exclude={"definition"}))
        return
    console.write_line(f"{view.name} {view.id}: {view.status}")
    rows = [
        (
            step.name,
            step.kind,
            step.status,
            step.attempts,
            None if step.items is None else f"{step.items_done} of {step.items}",
            _took(step.started_at, step.finished_at),
        )
        for step in view.steps
    ]
    console.write_table(("step", "kind", "status", "attempts", "items", "time"), rows)
    for line in error_lines(view):
        console.write_line(line)
    if outputs:
        for step in view.steps:
            console.write_line(f"{step.name}: {json.dumps(step.output)}")
    if view.output is not None:
        console.write_line(output_line(view))


@workflow.command("result")
def result(
    address: Annotated[
        str,
        typer.Argument(metavar="ADDRESS", help="As an output shows it: result:WORKFLOW/DIGEST."),
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write it there, not to the terminal.")
    ] = None,
) -> None:
    """Fetch a result that is kept by reference, being too large for the store."""
    console.command_settings()
    with Client() as client:
        value = client.workflow_result(address)
    if out is None:
        console.write_json(value)
        return
    try:
        out.write_text(json.dumps(value) + "\n", encoding="utf-8")
    except OSError as error:
        raise RequestError(f"--out {out} cannot be written: {error}") from error
    console.note(f"written to {out}")


@workflow.command("cancel")
def cancel(workflow_id: Id, as_json: Json = False) -> None:
    """Stop what runs, and undo what was done where the definition says how (`compensate`)."""
    _steer("cancel_workflow", workflow_id, as_json=as_json)


@workflow.command("pause")
def pause(workflow_id: Id, as_json: Json = False) -> None:
    """Start no further step; those that run end."""
    _steer("pause_workflow", workflow_id, as_json=as_json)


@workflow.command("resume")
def resume(workflow_id: Id, as_json: Json = False) -> None:
    """Go on after a pause."""
    _steer("resume_workflow", workflow_id, as_json=as_json)


@workflow.command("retry")
def retry(workflow_id: Id, step: StepName, item: Item = None, as_json: Json = False) -> None:
    """Run a step again that stands as uncertain."""
    _steer("retry_step", workflow_id, step, item=item, as_json=as_json)


@workflow.command("skip")
def skip(
    workflow_id: Id,
    step: StepName,
    item: Item = None,
    value: Annotated[
        str | None,
        typer.Option(metavar="JSON", help="What it counts as having given; else null."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Take a step that stands as uncertain as done; it is shown as waived."""
    told = None if value is None else _json("--value", value)
    _steer("skip_step", workflow_id, step, item=item, value=told, as_json=as_json)


@workflow.command("events")
def events(
    workflow_id: Id,
    after: Annotated[int, typer.Option(help="Only those after the event of this number.")] = 0,
    as_json: Json = False,
) -> None:
    """Print every transition as it comes, until the workflow has finished."""
    console.command_settings()
    with Client() as client:
        for event in client.workflow_events(workflow_id, after=after):
            _write_event(event, workflow_id, as_json=as_json)


def _inputs(pairs: list[str]) -> dict[str, Any]:
    found = {}
    for pair in pairs:
        name, sign, text = pair.partition("=")
        if not (name and sign):
            raise RequestError(f"--input is {pair!r}; write NAME=VALUE or NAME=@FILE")
        if text.startswith("@"):
            try:
                content = Path(text[1:]).read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise RequestError(f"--input {name}: {text[1:]} cannot be read: {error}") from error
            found[name] = _json(f"--input {name}", content)
            continue
        try:
            found[name] = json.loads(text)
        except ValueError:
            found[name] = text
    return found


def _json(what: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise RequestError(f"{what} is no JSON: {error}; a text is written in quotes") from error


def _steer(method: str, *words: str, as_json: bool, **options: Any) -> None:
    console.command_settings()
    with Client() as client:
        view = getattr(client, method)(*words, **options)
    _write_change(view, as_json=as_json)


def _write_change(view: WorkflowView, *, as_json: bool) -> None:
    if as_json:
        console.write_json(view.model_dump(exclude={"definition"}))
    else:
        console.write_line(f"{view.id} {view.status}")


def _write_event(event: WorkflowEvent, workflow_id: str, *, as_json: bool) -> None:
    if as_json:
        console.write_line(event.model_dump_json())
        return
    for line in event_lines(event, workflow_id):
        console.write_line(line)


def _draw(view: WorkflowView, file: Path) -> None:
    from actors.picture import picture
    from actors.workflow.definition import define

    source = (view.model_extra or {}).get("definition")
    if source is None:
        raise IroncliwError("the server did not tell the definition; is it of this release?")
    steps = define(source).steps
    needs = {step.name: [steps[index].name for index in step.needs] for step in steps}
    drawn = picture(view, needs, time.time())
    if str(file) == _DASH:
        console.write_line(drawn.rstrip("\n"))
        return
    file.write_text(drawn, encoding="utf-8")
    console.note(f"drawn into {file}")


def _took(start: float | None, end: float | None) -> str | None:
    if start is None:
        return None
    return _age((end or time.time()) - start) + ("" if end else " so far")


def _age(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"
