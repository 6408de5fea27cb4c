"""A VM that boots here, and a Secret Manager."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.testing.fake_metadata import TOKEN, FakeMetadata, service_account
from cluster.testing.http_server import HttpServer, Request, Response
from tests.unit.cluster.vm_boot import NAME, Vm


@pytest.fixture
def vm(tmp_path: Path) -> Iterator[Vm]:
    values = {"instance/name": NAME, "instance/network-interfaces/0/ip": "10.77.0.2"}
    with FakeMetadata({**values, **service_account("worker@p-1")}) as server:
        yield Vm(tmp_path, server)


@pytest.fixture
def secrets() -> Iterator[tuple[HttpServer, dict[str, str], list[Request]]]:
    stored: dict[str, str] = {}
    asked: list[Request] = []

    def answer(request: Request) -> Response:
        asked.append(request)
        if request.headers.get("authorization") != f"Bearer {TOKEN}":
            return Response(401)
        name = request.path.split("/")[-3]
        if name not in stored:
            return Response(403)
        data = base64.b64encode(stored[name].encode()).decode()
        return Response(200, json.dumps({"payload": {"data": data}}).encode())

    with HttpServer(answer) as server:
        yield server, stored, asked
