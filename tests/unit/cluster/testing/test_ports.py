"""Ports for servers that start a moment later: nobody else's by then."""

from __future__ import annotations

import socket

import pytest

from cluster.testing import ports
from cluster.testing.ports import free_ports, free_run
from ironcliw.errors import ClusterError


@pytest.fixture(autouse=True)
def none_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "_given", set())


def test_they_are_free_and_none_is_given_twice() -> None:
    found = [port for _ in range(30) for port in free_ports(5)]
    assert len(set(found)) == 150
    for port in found[-5:]:
        with socket.socket() as server:
            server.bind(("127.0.0.1", port))


def test_no_connection_is_given_one_meanwhile() -> None:
    """Linux takes ports for connections from 32768 on, macOS from 49152."""
    assert all(1024 < port < 32768 for port in free_ports(20))


def test_a_taken_one_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports.secrets, "randbelow", lambda _: 0)
    [first] = free_ports(1)
    monkeypatch.setattr(ports, "_given", set())
    with socket.socket() as server:
        server.bind(("127.0.0.1", first))
        server.listen()
        assert first not in free_ports(10)


def test_processes_begin_in_blocks_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = set()
    for pid in range(1000, 1008):
        monkeypatch.setattr(ports.os, "getpid", lambda pid=pid: pid)
        [port] = free_ports(1)
        blocks.add((port - ports._RANGE.start) // ports._BLOCK)
    assert len(blocks) == 8


def test_one_comes_again_when_all_were_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "_RANGE", range(30_000, 30_000 + ports._BLOCK))
    monkeypatch.setattr(ports, "_is_free", lambda *_: True)
    first = free_ports(ports._BLOCK)
    assert set(free_ports(3)) < set(first)


def test_a_run_of_ports_has_free_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    choices = iter([0, 0, 1])
    monkeypatch.setattr(ports.secrets, "randbelow", lambda _: next(choices))
    first = free_run(200)
    with socket.socket() as server:
        server.bind(("127.0.0.1", first + 199))
        assert free_run(200) == first + 200


def test_without_a_free_run_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "_is_free", lambda *_: False)
    with pytest.raises(ClusterError, match="no 200 ports in a row from 21000 to 29999 are free"):
        free_run(200)


def test_where_there_are_not_so_many_it_says_what_to_do() -> None:
    words = r"3000 ports are asked for, and \d+ from 30000 to 32767 of 127\.0\.0\.1 are free; see"
    with pytest.raises(ClusterError, match=words):
        free_ports(3000)


def test_an_address_of_another_machine_is_no_taken_port() -> None:
    with pytest.raises(OSError, match="assign requested address"):
        free_ports(1, "192.0.2.1")
