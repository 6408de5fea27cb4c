"""The http step over TLS: the certificate is the name's, the connection the checked address's."""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from actors.steps.http_call import HttpCall, resolve
from actors.workflow.tasks import StepError
from ironcliw.actor_settings import ActorsSettings
from tests.unit.actors.certificates import Authority
from tests.unit.actors.test_http_call import Names, Server, run_call

NAME = "api.test"
METADATA = "169.254.169.254"


class TlsServer(Server):
    """Shows a certificate for `NAME`, and remembers which name it was asked for."""

    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__()
        self.names: list[str | None] = []
        context.sni_callback = lambda _, name, __: self.names.append(name)
        self.http.socket = context.wrap_socket(
            self.http.socket, server_side=True, do_handshake_on_connect=False
        )


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def server(authority: Authority, tmp_path: Path) -> Iterator[TlsServer]:
    server = TlsServer(authority.server(tmp_path, NAME))
    yield server
    server.close()


def call(
    server: Server,
    verify: ssl.SSLContext | None,
    resolver: Any = None,
    hosts: Sequence[str] = (NAME,),
) -> HttpCall:
    listed = tuple(f"{host}:{server.port}" for host in hosts)
    settings = ActorsSettings(http_hosts=listed, http_private_hosts=listed)
    names = resolver or Names(**{host.replace(".", "_"): ["127.0.0.1"] for host in hosts})
    return HttpCall(settings, resolver=names, verify=verify)


def test_the_name_is_proved_and_the_checked_address_is_asked(
    server: TlsServer, authority: Authority
) -> None:
    # "api.test" is in no resolver of this machine: only the address that was checked can be meant
    result = run_call(call(server, authority.trusting()), url=f"https://{NAME}:{server.port}/a")
    assert (result["status"], result["json"]) == (200, {"ok": True})
    assert server.names == [NAME]
    [(_, path, headers, _)] = server.received
    assert (path, headers["host"]) == ("/a", f"{NAME}:{server.port}")


def test_a_certificate_of_another_name_is_not_accepted(
    server: TlsServer, authority: Authority
) -> None:
    # whoever has come to stand at the address of another name can prove its own alone
    other = call(server, authority.trusting(), hosts=["other.test"])
    with pytest.raises(StepError, match=r"that other\.test shows is not accepted: Hostname") as no:
        run_call(other, url=f"https://other.test:{server.port}/")
    assert (no.value.failure, no.value.retryable, server.received) == ("refused", False, [])


def test_neither_is_the_name_in_it_a_reason_to_accept_the_address(
    server: TlsServer, authority: Authority
) -> None:
    by_address = call(server, authority.trusting(), resolve, ["127.0.0.1"])
    with pytest.raises(StepError, match="IP address mismatch"):
        run_call(by_address, url=f"https://127.0.0.1:{server.port}/")
    assert server.received == []


def test_an_authority_that_nobody_trusts(server: TlsServer) -> None:
    for verify in (None, Authority().trusting()):  # None: the machine's own
        with pytest.raises(StepError, match=r"is not accepted: (unable|cert)"):
            run_call(call(server, verify), url=f"https://{NAME}:{server.port}/")
    assert server.received == []


def test_a_name_that_changes_after_the_check_changes_nothing(
    server: TlsServer, authority: Authority
) -> None:
    names = Names(api_test=["127.0.0.1", METADATA])
    asked = run_call(
        call(server, authority.trusting(), names), url=f"https://{NAME}:{server.port}/"
    )
    assert (asked["status"], names.asked) == (200, [NAME])


def test_a_redirect_is_resolved_anew_and_judged(server: TlsServer, authority: Authority) -> None:
    server.replies["/r"] = (302, {"location": "/again"}, b"")
    names = Names(api_test=["127.0.0.1", METADATA])
    with pytest.raises(StepError, match=rf"{NAME} is at {METADATA}, a link-local"):
        run_call(call(server, authority.trusting(), names), url=f"https://{NAME}:{server.port}/r")
    assert [path for _, path, _, _ in server.received] == ["/r"]


def test_a_server_without_tls_is_no_server(authority: Authority) -> None:
    plain = Server()
    try:
        with pytest.raises(StepError, match=rf"{NAME} cannot be reached: .*SSL") as caught:
            run_call(call(plain, authority.trusting()), url=f"https://{NAME}:{plain.port}/")
        assert caught.value.retryable
    finally:
        plain.close()


@pytest.mark.parametrize(
    "host",
    [
        METADATA,
        f"[::ffff:{METADATA}]",
        "[::ffff:a9fe:a9fe]",
        "[64:ff9b::a9fe:a9fe]",
        "[2002:a9fe:a9fe::]",
        "[fe80::1]",
        "[fd00:ec2::254]",
    ],
)
def test_no_list_lets_a_metadata_server_be_asked(host: str, authority: Authority) -> None:
    settings = ActorsSettings(http_hosts=(host,), http_private_hosts=(host,))
    with pytest.raises(StepError, match="which no step may ask"):
        run_call(HttpCall(settings, verify=authority.trusting()), url=f"https://{host}/")
