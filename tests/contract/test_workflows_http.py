"""`/v1/workflows` and the client's methods, over HTTP, with an orchestrator that commits."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from actors import functions
from actors.commands_workflow import show, workflow
from actors.functions import function
from ironcliw.client import AsyncClient, Client
from ironcliw.errors import (
    ConflictError,
    DeadlineExceededError,
    NotFoundError,
    PermissionDeniedError,
    RequestError,
    UnavailableError,
)
from serve.keys import ApiKeys, Scope
from tests.contract.http_service import HttpService, running
from tests.contract.workflow_world import World


def calls(target: str, **more: Any) -> dict[str, Any]:
    return {"function": target, "with": {"x": 1}, **more}


ECHO = {"name": "echo", "steps": {"one": calls("work.echo")}}
HOLD = {"name": "hold", "steps": {"one": calls("work.hold")}}
LOSE = {
    "name": "lose",
    "steps": {"one": calls("work.lose"), "two": calls("work.echo", after=["one"])},
}


@pytest.fixture(scope="module", autouse=True)
def registered() -> Iterator[None]:
    before = dict(functions._registered)
    for name in ("echo", "hold", "lose"):
        function(f"work.{name}", idempotent=name == "echo")(lambda x, y=0: x)
    yield
    functions._registered.clear()
    functions._registered.update(before)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def server(tmp_path: Path, world: World) -> Iterator[HttpService]:
    with running(tmp_path / "state", workflows=world) as service:
        yield service


@pytest.fixture
def client(server: HttpService) -> Iterator[Client]:
    with Client(base_url=server.url, timeout=60) as client:
        yield client


def test_a_workflow_is_submitted_followed_and_read(client: Client) -> None:
    submitted = client.submit_workflow(ECHO)
    done = client.wait_for_workflow(submitted.id, seconds=20)
    assert (done.status, done.output, done.owner) == ("completed", {"x": 1}, "local")
    assert [(step.name, step.status) for step in done.steps] == [("one", "completed")]
    assert done.steps[0].output is None
    whole = client.workflow(done.id, outputs=True)
    assert whole.steps[0].output == {"x": 1}
    events = list(client.workflow_events(done.id))
    assert [event.kind for event in events] == [
        *("submitted", "step_started", "step_completed", "completed")
    ]
    assert [event.seq for event in events] == [1, 2, 3, 4]
    assert [event.seq for event in client.workflow_events(done.id, after=2)] == [3, 4]


def test_the_same_key_gives_the_same_workflow(client: Client, world: World) -> None:
    first = client.submit_workflow(ECHO, key="one")
    assert client.submit_workflow(ECHO, key="one").id == first.id
    with pytest.raises(ConflictError, match=r"'one' was used for workflow .* another definition"):
        client.submit_workflow({**ECHO, "name": "other"}, key="one")
    assert client.submit_workflow(ECHO).id != first.id
    client.wait_for_workflow(first.id, seconds=20)
    assert world.executor.runs[f"{first.id}/one"] == 1


@pytest.mark.parametrize(
    ("definition", "param", "why"),
    [
        ({"name": "x"}, "steps", "field `steps`: it is required"),
        ({"name": "x", "steps": {"a": {}}}, "steps.a", "exactly one|one of"),
        (
            {"name": "x", "steps": {"a": calls("os.system")}},
            "steps.a.function",
            "no function is reg",
        ),
        (
            {"name": "x", "steps": {"a": {"function": "work.echo", "with": {"z": 1}}}},
            "steps.a.with",
            "missing a required argument|unexpected keyword",
        ),
        (
            {"name": "x", "steps": {"a": calls("work.echo", after=["b"])}},
            "steps.a.after",
            "'b'",
        ),
        (
            {
                "name": "x",
                "steps": {
                    "a": calls("work.echo", after=["b"]),
                    "b": calls("work.echo", after=["a"]),
                },
            },
            None,
            "it waits for itself: a -> b -> a",
        ),
        (
            {"name": "x", "steps": {"a": calls("work.echo", compensate=calls("os.remove"))}},
            "steps.a.compensate.function",
            "no function is registered as 'os.remove'",
        ),
    ],
)
def test_a_wrong_definition_names_its_field(
    client: Client, definition: Any, param: str | None, why: str
) -> None:
    with pytest.raises(RequestError, match=why) as caught:
        client.submit_workflow(definition)
    assert caught.value.status == 400
    if param is not None:
        assert caught.value.param == param


def test_a_missing_input(client: Client) -> None:
    definition = {**ECHO, "inputs": {"who": {"required": True}}}
    with pytest.raises(RequestError, match="needs the input 'who'") as caught:
        client.submit_workflow(definition)
    assert caught.value.param == "inputs.who"


@pytest.mark.parametrize("value", [2**70, "\ud800"])
@pytest.mark.parametrize("where", ["definition", "inputs"])
def test_what_could_never_be_shown_is_not_taken(
    server: HttpService, value: Any, where: str
) -> None:
    given = value if where == "definition" else "${inputs.x}"
    step = {"function": "work.echo", "with": {"x": given}}
    definition = {"name": "a", "inputs": {"x": {}}, "steps": {"a": step}}
    inputs = {} if where == "definition" else {"x": value}
    body = json.dumps({"definition": definition, "inputs": inputs})
    answer = httpx.post(server.url + "/v1/workflows", content=body)
    assert answer.status_code == 400, answer.text
    assert httpx.get(server.url + "/v1/workflows").json()["data"] == []


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"[]", None),
        (b"{}", "definition"),
        (b'{"definition": {}, "priority": "soon"}', "priority"),
        (b'{"definition": {}, "deadline_seconds": -1}', "deadline_seconds"),
        (b'{"definition": {}, "colour": 1}', "colour"),
        (b'{"definition": {}, "key": "a", "key": "b"}', "key"),
        (b'{"definition": {"steps": {"a": {"with": {"x": 1}}, "a": {}}}}', "definition.steps.a"),
    ],
)
def test_a_wrong_body(server: HttpService, body: bytes, param: str | None) -> None:
    answer = httpx.post(server.url + "/v1/workflows", content=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_cancel_pause_and_resume(client: Client) -> None:
    held = client.submit_workflow(HOLD)
    assert client.pause_workflow(held.id).status == "paused"
    assert client.resume_workflow(held.id).status == "running"
    client.cancel_workflow(held.id)
    assert client.wait_for_workflow(held.id, seconds=20).status == "cancelled"
    with pytest.raises(NotFoundError, match="cancel, pause and resume, not 'stop'"):
        client.request("POST", f"/v1/workflows/{held.id}/stop", {})


def test_a_step_that_was_lost_waits_for_its_user(client: Client, world: World) -> None:
    lost = client.submit_workflow(LOSE)
    stands = client.wait_for_workflow(lost.id, seconds=20)
    assert (stands.status, stands.steps[0].status) == ("uncertain", "uncertain")
    client.retry_step(lost.id, "one")
    assert client.wait_for_workflow(lost.id, seconds=20).status == "uncertain"
    assert world.executor.runs[f"{lost.id}/one"] == 2
    client.skip_step(lost.id, "one", value={"by": "hand"})
    done = client.wait_for_workflow(lost.id, seconds=20)
    assert (done.status, done.steps[0].status) == ("completed", "waived")
    with pytest.raises(ConflictError):
        client.retry_step(lost.id, "one")


def test_lists_are_pages(client: Client) -> None:
    ids = [client.submit_workflow(ECHO).id for _ in range(5)]
    client.submit_workflow(HOLD)
    for one in ids:
        client.wait_for_workflow(one, seconds=20)
    first = client.workflows(name="echo", limit=3)
    second = client.workflows(name="echo", limit=3, before=first[-1].id)
    assert [view.id for view in (*first, *second)] == ids[::-1]
    assert [view.name for view in client.workflows(status="running")] == ["hold"]
    for query in ("limit=0", "limit=x", "limit=1001"):
        with pytest.raises(RequestError, match=r"limit is .* give a whole number from 1 to 1000"):
            client.request("GET", f"/v1/workflows?{query}")


@pytest.mark.parametrize("path", ["", "/events", "/cancel", "/steps/one/retry"])
def test_a_workflow_that_there_is_none_of(client: Client, path: str) -> None:
    method = "GET" if path in {"", "/events"} else "POST"
    with pytest.raises(NotFoundError, match="there is no workflow 'wf-none'"):
        client.request(method, f"/v1/workflows/wf-none{path}")


def sse(server: HttpService, path: str, **headers: str) -> list[str]:
    answer = httpx.get(server.url + path, headers=headers, timeout=60)
    assert answer.headers["content-type"].startswith("text/event-stream")
    return answer.text.strip().split("\n\n")


def test_events_are_server_sent_and_resume_by_their_id(server: HttpService, client: Client) -> None:
    done = client.wait_for_workflow(client.submit_workflow(ECHO).id, seconds=20)
    path = f"/v1/workflows/{done.id}/events"
    blocks = sse(server, path)
    assert blocks[0].startswith("id: 1\nevent: submitted\ndata: {")
    assert blocks[-1] == "data: [DONE]"
    rest = sse(server, f"{path}?after=1", **{"last-event-id": "3"})
    assert [block.partition("\n")[0] for block in rest] == ["id: 4", "data: [DONE]"]
    wrong = httpx.get(server.url + path, headers={"last-event-id": "three"})
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "last-event-id")


def cancel_later(client: Client, workflow_id: str, seconds: float) -> threading.Timer:
    def cancel() -> None:
        with Client(base_url=client._session.base_url) as another:
            another.cancel_workflow(workflow_id)

    timer = threading.Timer(seconds, cancel)
    timer.start()
    return timer


def test_events_come_as_they_are_committed(client: Client) -> None:
    held = client.submit_workflow(HOLD)
    events = client.workflow_events(held.id)
    kinds = [next(events).kind, next(events).kind]
    assert kinds == ["submitted", "step_started"]
    timer = cancel_later(client, held.id, 0.2)
    rest = [event.kind for event in events]
    timer.join()
    assert rest[0] == "cancel_requested"
    assert rest[-1] == "cancelled"


def test_a_client_goes_on_where_a_stream_broke(client: Client, world: World) -> None:
    held = client.submit_workflow(HOLD)
    events = client.workflow_events(held.id)
    assert next(events).seq == 1
    assert next(events).seq == 2
    world.away = True  # at its next page the stream ends with an error
    threading.Timer(1.0, lambda: setattr(world, "away", False)).start()
    timer = cancel_later(client, held.id, 2.0)
    assert [event.seq for event in events] == [3, 4, 5]
    timer.join()


def test_waiting_gives_up_after_its_time(client: Client) -> None:
    held = client.submit_workflow(HOLD)
    with pytest.raises(DeadlineExceededError, match=r"is running after 0\.1 s; it goes on"):
        client.wait_for_workflow(held.id, seconds=0.1)


def test_an_orchestrator_that_is_away_is_a_503(server: HttpService, world: World) -> None:
    world.away = True
    with Client(base_url=server.url, max_retries=0) as client:
        with pytest.raises(UnavailableError, match="are not there now"):
            client.submit_workflow(ECHO)


def test_the_status_tells_who_leads(server: HttpService, world: World) -> None:
    found = httpx.get(server.url + "/v1/status").json()
    assert found["actors"]["leader"] == "a head"
    assert found["actors"]["workflows"] == {"running": 1}
    assert not [line for line in found["degraded"] if line.startswith("workflows")]
    world.away = True
    degraded = httpx.get(server.url + "/v1/status").json()["degraded"]
    assert "workflows and agents: a head leads those of this store" in degraded


def test_the_command_shows_what_steps_gave(
    server: HttpService,
    client: Client,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("IRONCLIW_CLIENT__BASE_URL", server.url)
    done = client.wait_for_workflow(client.submit_workflow(ECHO).id, seconds=20)
    show(done.id)
    assert "one: " not in capsys.readouterr().out
    show(done.id, outputs=True)
    assert 'one: {"x": 1}\noutput: {"x": 1}\n' in capsys.readouterr().out


def test_whoever_follows_sees_the_output(
    server: HttpService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IRONCLIW_CLIENT__BASE_URL", server.url)
    file = tmp_path / "echo.json"
    file.write_text(json.dumps(ECHO))
    told = CliRunner().invoke(workflow, ["submit", str(file), "--follow"])
    assert told.exit_code == 0, told.output
    assert told.stdout.endswith(' completed\noutput: {"x": 1}\n')


def test_the_command_says_what_to_do_about_an_uncertain_step(
    server: HttpService,
    client: Client,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("IRONCLIW_CLIENT__BASE_URL", server.url)
    lost = client.wait_for_workflow(client.submit_workflow(LOSE).id, seconds=20)
    show(lost.id)
    told = capsys.readouterr().out
    assert "one: its process died\n" in told
    assert f"ironcliw workflow retry|skip {lost.id} one\n" in told


def test_a_server_without_one_says_so(tmp_path: Path) -> None:
    with running(tmp_path / "bare") as service:
        answer = httpx.get(service.url + "/v1/workflows")
        assert (answer.status_code, answer.json()["error"]["code"]) == (501, "unsupported")


def test_keys_need_the_scope_and_see_their_own(server: HttpService, client: Client) -> None:
    keys = ApiKeys(server.service._store)
    secrets = {
        name: keys.create(name, scopes)[1]
        for name, scopes in {
            "reader": [Scope.INFER],
            "one": [Scope.WORKFLOW],
            "two": [Scope.WORKFLOW],
            "owner": [Scope.ADMIN],
        }.items()
    }
    server.service.keys.refresh()

    def acting(name: str) -> Client:
        return Client(base_url=server.url, api_key=secrets[name])

    with acting("reader") as reader, pytest.raises(PermissionDeniedError, match="needs workflow"):
        reader.submit_workflow(ECHO)
    with acting("one") as one, acting("two") as two, acting("owner") as owner:
        mine = one.submit_workflow(ECHO)
        assert mine.owner == "one"
        assert [view.id for view in one.workflows()] == [mine.id]
        assert two.workflows() == []
        assert [view.id for view in owner.workflows()] == [mine.id]
        for look in (two.workflow, two.cancel_workflow, lambda id_: next(two.workflow_events(id_))):
            with pytest.raises(NotFoundError, match="there is no workflow"):
                look(mine.id)


LARGE = {"name": "large", "steps": {"one": {"function": "work.echo", "with": {"x": "y" * 200}}}}


def test_a_large_result_is_read_by_its_owner(
    server: HttpService, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = client.wait_for_workflow(client.submit_workflow(LARGE).id, seconds=20)
    address = done.output["$reference"]
    assert client.workflow_result(done.output) == {"x": "y" * 200}
    assert client.workflow_result(address) == {"x": "y" * 200}
    with pytest.raises(NotFoundError, match="is gone from"):
        client.workflow_result(f"result:{done.id}/{'0' * 64}")
    with pytest.raises(RequestError, match=r"is no result by reference; give what an output holds"):
        client.workflow_result({"x": 1})
    with pytest.raises(RequestError, match="is no address of a result"):
        client.request("GET", f"/v1/workflows/{done.id}/results/mine")
    monkeypatch.setenv("IRONCLIW_CLIENT__BASE_URL", server.url)
    told = CliRunner().invoke(workflow, ["result", address, "--out", str(tmp_path / "r.json")])
    assert told.exit_code == 0, told.output
    assert json.loads((tmp_path / "r.json").read_text()) == {"x": "y" * 200}
    secret = ApiKeys(server.service._store).create("other", [Scope.WORKFLOW])[1]
    server.service.keys.refresh()
    with Client(base_url=server.url, api_key=secret) as other:
        with pytest.raises(NotFoundError, match="there is no workflow"):
            other.workflow_result(address)


ASKS: dict[str, Any] = {
    "name": "asks",
    "steps": {"ask": {"decide": {"input": "x", "labels": ["a", "b"]}}},
}
TRAINS = {"name": "trains", "steps": {"one": {"train": {"recipe": "publish"}}}}
UNDOES = {"name": "undoes", "steps": {"one": calls("work.echo", compensate=ASKS["steps"]["ask"])}}


@pytest.mark.parametrize(
    ("scopes", "definition", "why"),
    [
        ([Scope.WORKFLOW], ASKS, "steps.ask: a step of the kind 'decide' needs the scope infer"),
        ([Scope.WORKFLOW], UNDOES, "steps.one.compensate: a step of the kind 'decide' needs"),
        ([Scope.WORKFLOW, Scope.INFER], ASKS, None),
        ([Scope.WORKFLOW, Scope.INFER], TRAINS, "needs the scope admin, and this key has infer, w"),
        ([Scope.ADMIN], TRAINS, None),
        (None, TRAINS, None),
    ],
)
def test_a_workflow_does_what_its_submitter_might_do_itself(
    server: HttpService, scopes: list[Scope] | None, definition: Any, why: str | None
) -> None:
    keys = ApiKeys(server.service._store)
    secret = None if scopes is None else keys.create("somebody", scopes)[1]
    server.service.keys.refresh()
    with Client(base_url=server.url, api_key=secret) as somebody:
        if why is None:
            assert somebody.submit_workflow(definition).name == definition["name"]
            return
        with pytest.raises(PermissionDeniedError, match=why) as caught:
            somebody.submit_workflow(definition)
        assert caught.value.status == 403


def test_the_same_for_asyncio(server: HttpService) -> None:
    async def use() -> None:
        async with AsyncClient(base_url=server.url) as client:
            view = await client.submit_workflow(ECHO)
            done = await client.wait_for_workflow(view.id, seconds=20)
            assert done.status == "completed"
            events = [event.kind async for event in client.workflow_events(view.id)]
            assert events[-1] == "completed"
            assert [one.id for one in await client.workflows()] == [view.id]
            lost = await client.submit_workflow(LOSE)
            assert (await client.wait_for_workflow(lost.id, seconds=20)).status == "uncertain"
            await client.retry_step(lost.id, "one")
            await client.wait_for_workflow(lost.id, seconds=20)
            await client.skip_step(lost.id, "one", value=1)
            held = await client.submit_workflow(HOLD)
            await client.pause_workflow(held.id)
            await client.resume_workflow(held.id)
            await client.cancel_workflow(held.id)
            assert (await client.workflow(held.id)).status in {"cancelling", "cancelled"}

    asyncio.run(use())
