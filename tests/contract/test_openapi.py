"""schemathesis sends what the OpenAPI document allows and forbids; no answer may break it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
import schemathesis
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.contract.http_service import HttpService, running
from tests.contract.workflow_world import World

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpService]:
    folder = tmp_path_factory.mktemp("state")
    with running(folder, workflows=World(folder)) as service:
        yield service


@pytest.fixture(scope="module")
def document(server: HttpService) -> Any:
    return schemathesis.openapi.from_url(server.url + "/openapi.json")


def test_answers_keep_to_the_document(document: Any) -> None:
    tested = []
    for result in document.get_all_operations():
        operation = result.ok()
        # answers 501 without Ray's agent; the test of the real head reads it
        if operation.path == "/metrics":
            continue
        tested.append(operation.path)

        @hypothesis.settings(
            max_examples=25,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        @hypothesis.given(case=operation.as_strategy())
        def answer_keeps_to_it(case: Any) -> None:
            case.validate_response(case.call(), checks=CHECKS)

        answer_keeps_to_it()
    assert "/v1/chat/completions" in tested
    assert len(tested) == 23
