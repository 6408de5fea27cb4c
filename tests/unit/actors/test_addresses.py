"""Which hosts and addresses http steps may ask: every trick that we know of is refused."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.steps.addresses import carried, check_address, check_host, parse_url
from actors.workflow.tasks import StepError

LISTED = ["api.example.com", "*.cdn.example.com", "api.example.com:8443", "[2001:4860::8]:90"]


@pytest.mark.parametrize(
    "url",
    [
        "https://api.example.com/v1?q=1",
        "http://api.example.com",
        "https://API.Example.COM./v1",
        "https://api.example.com:8443/",
        "https://api.example.com:443/",
        "https://a.cdn.example.com",
        "https://a.b.cdn.example.com",
        "http://[2001:4860::8]:90/",
    ],
)
def test_what_is_listed(url: str) -> None:
    check_host(parse_url(url), LISTED)


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com",
        "https://api.example.com.evil.net",
        "https://evilapi.example.com",
        "https://cdn.example.com",
        "https://evilcdn.example.com",
        "https://api.example.com:22",
        "http://api.example.com:443",
        "http://127.0.0.1",
        "http://2130706433",
        "http://0x7f.1",
        "http://[::ffff:127.0.0.1]/",
        "http://localhost",
    ],
)
def test_what_is_not(url: str) -> None:
    with pytest.raises(StepError, match=r"is not on the list .*actors\.http_hosts") as caught:
        check_host(parse_url(url), LISTED)
    assert not caught.value.retryable


def test_a_metadata_server_is_refused_by_name_also_where_it_is_listed() -> None:
    with pytest.raises(StepError, match="is a metadata server"):
        check_host(parse_url("http://Metadata.Google.Internal."), ["metadata.google.internal"])


@pytest.mark.parametrize(
    ("url", "why"),
    [
        (None, "give a text"),
        ("", "must read http"),
        ("api.example.com", "must read http"),
        ("file:///etc/passwd", "must read http"),
        ("gopher://api.example.com", "must read http"),
        ("https://", "must read http"),
        ("https://api.example.com:0/", "must read http"),
        ("https://api.example.com:99999/", "is malformed"),
        ("https://[::1/", "is malformed"),
        ("https://me:secret@api.example.com/", "holds a user name or a password"),
        ("https://api.example.com@127.0.0.1/", "holds a user name"),
        ("https://api.example.com\\@127.0.0.1/", "holds a user name|backslash"),
        ("https://api.example.com/a b", "holds a space"),
        ("https://api.example.com/\r\nHost: x", "holds a space, a control"),
    ],
)
def test_what_is_no_url(url: object, why: str) -> None:
    with pytest.raises(StepError, match=why) as caught:
        parse_url(url)
    assert "secret" not in str(caught.value)


ALWAYS = [
    "169.254.169.254",
    "169.254.0.1",
    "fe80::1",
    "fe80::1%eth0",
    "::ffff:169.254.169.254",
    "::169.254.169.254",
    "64:ff9b::169.254.169.254",
    "64:ff9b:1::169.254.169.254",
    "2002:a9fe:a9fe::1",
    "2001:0:a9fe:a9fe::1",  # Teredo, whose server it is
    "100.100.100.200",
    "192.0.0.192",
    "fd00:ec2::254",
    "fd20:ce::254",
    "0.0.0.0",
    "::",
    "224.0.0.1",
    "ff02::1",
    "255.255.255.255",
    "240.0.0.1",
]
PRIVATE = [
    "127.0.0.1",
    "127.8.8.8",
    "::1",
    "::ffff:127.0.0.1",
    "::127.0.0.1",
    "64:ff9b::10.0.0.1",
    "2002:7f00:1::",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "100.64.0.1",
    "198.18.0.1",
    "0.1.2.3",
    "fd12::1",
    "fec0::1",
]


@pytest.mark.parametrize("address", ALWAYS)
def test_what_is_refused_whoever_lists_it(address: str) -> None:
    with pytest.raises(StepError, match="which no step may ask"):
        check_address("listed", address, private_allowed=True)


@pytest.mark.parametrize("address", PRIVATE)
def test_what_needs_the_second_list(address: str) -> None:
    with pytest.raises(StepError, match=r"is not a public address; .*actors\.http_private_hosts"):
        check_address("listed", address, private_allowed=False)
    check_address("listed", address, private_allowed=True)


@pytest.mark.parametrize("address", ["8.8.8.8", "2001:4860:4860::8888", "::ffff:8.8.8.8"])
def test_what_is_public(address: str) -> None:
    assert str(check_address("listed", address, private_allowed=False)) == str(
        ipaddress.ip_address(address)
    )


def test_what_is_no_address() -> None:
    with pytest.raises(StepError, match="resolves to '2130706433', which is no address"):
        check_address("listed", "2130706433", private_allowed=True)


@given(st.ip_addresses(v=4))
def test_no_wrapping_makes_an_address_better(inner: ipaddress.IPv4Address) -> None:
    number = int(inner)
    wrapped = [
        ipaddress.IPv6Address(0xFFFF << 32 | number),
        ipaddress.IPv6Address((0x0064FF9B << 96) | number),
        ipaddress.IPv6Address((0x2002 << 112) | number << 80),
    ]
    for one in wrapped:
        assert inner in list(carried(one))
        for private in (False, True):
            try:
                check_address("h", str(inner), private_allowed=private)
            except StepError:
                with pytest.raises(StepError, match=r"address|metadata"):
                    check_address("h", str(one), private_allowed=private)
