"""Which hosts and addresses a step may ask. Pure rules.

A definition may come from somebody else than the cluster's owner, and its http steps are sent from
the head: without rules they would reach what only the head may (server-side request forgery). So

- the host must be on the owner's list, with the port where that is not the scheme's own;
- every address that its name resolves to must be public, or the host on a second list of those that
  may be private;
- link-local addresses, which hold the metadata server of every cloud, are refused always, and so
  are the metadata servers that stand elsewhere, and everything that is no unicast address;
- an IPv6 address that carries an IPv4 one (mapped, translated, 6to4, Teredo) is judged by both.

The connection is made to the address that was checked, never to the name again: see
`actors.steps.http_call`.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable, Iterator
from urllib.parse import SplitResult, urlsplit

from actors.workflow.tasks import StepError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

PORTS = {"http": 80, "https": 443}
_METADATA_NAMES = frozenset({"metadata", "metadata.google.internal", "metadata.goog"})
_METADATA_ADDRESSES = frozenset(
    ipaddress.ip_address(text)
    # Alibaba, Oracle, AWS over IPv6, GCE over IPv6
    for text in ("100.100.100.200", "192.0.0.192", "fd00:ec2::254", "fd20:ce::254")
)
_NAT64 = (ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("64:ff9b:1::/48"))
_COMPATIBLE = ipaddress.IPv6Network("::/96")


def parse_url(url: object) -> SplitResult:
    """The parts of an address that a step may ask.

    Raises:
        StepError: it is no http or https URL with a host, or it carries a password.
    """
    if not isinstance(url, str):
        raise _invalid(f"url is {url!r}; give a text such as https://api.example.com/v1")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise _invalid(f"url {url!r:.200} is malformed: {error}") from None
    if parts.scheme not in PORTS or not host or port == 0:
        raise _invalid(f"url {url!r:.200} must read http://HOST/... or https://HOST/...")
    if parts.username is not None or parts.password is not None:
        raise _invalid("url holds a user name or a password; send an authorization header instead")
    if any(ord(char) <= 32 or ord(char) == 127 for char in url) or "\\" in url:
        raise _invalid(f"url {url!r:.200} holds a space, a control character or a backslash")
    return parts


def check_host(parts: SplitResult, allowed: Iterable[str]) -> None:
    """Refuse a host that is not on the list, or that no list helps.

    Raises:
        StepError: the message names the list.
    """
    host, port = host_and_port(parts)
    if host in _METADATA_NAMES:
        raise _refused(f"{host} is a metadata server, which no step may ask")
    address = literal(host)
    if address is not None:
        _refuse_always(host, address)
    listed = list(allowed)
    if not is_listed(host, port, parts.scheme, listed):
        entry = host if port == PORTS[parts.scheme] else f"{host}:{port}"
        private = host == "localhost" or (address is not None and not _are_public(address))
        raise _refused(
            f"{entry} is not on the list of hosts that http steps may ask "
            f"({', '.join(listed) or 'it is empty'}); the owner adds it to actors.http_hosts"
            + (" and, as its address is not public, actors.http_private_hosts" if private else "")
        )


def literal(host: str) -> Address | None:
    """The address that a host is written as, in any form that the resolver takes; None: a name."""
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        pass
    try:
        # 0x7f.1 and 2130706433 are 127.0.0.1, too; it asks nobody
        return ipaddress.IPv4Address(socket.inet_aton(host))
    except (OSError, UnicodeError):
        return None


def host_and_port(parts: SplitResult) -> tuple[str, int]:
    """Host in lower case without the root's dot, and the port, given or the scheme's own."""
    assert parts.hostname is not None
    host = parts.hostname.rstrip(".")
    return host, parts.port or PORTS[parts.scheme]


def is_listed(host: str, port: int, scheme: str, listed: Iterable[str]) -> bool:
    """Whether an entry NAME, *.NAME, NAME:PORT or *.NAME:PORT names this host and port."""
    for entry in listed:
        name, entry_port = _split_entry(entry, scheme)
        if port != entry_port:
            continue
        if name.startswith("*."):
            # one label or several before it, never the bare name
            if host.endswith(name[1:]) and len(host) > len(name) - 1:
                return True
        elif host == name:
            return True
    return False


def _split_entry(entry: str, scheme: str) -> tuple[str, int]:
    parts = urlsplit(f"//{entry}")
    return (parts.hostname or "").rstrip("."), parts.port or PORTS[scheme]


def check_address(host: str, text: str, *, private_allowed: bool) -> Address:
    """Refuse an address that a step may not ask.

    Args:
        host: As the URL has it, for the message.
        text: What it resolved to.
        private_allowed: Whether the owner lists the host as one that may be private.

    Raises:
        StepError: with the address and what it is.
    """
    try:
        # a scope ("%eth0") belongs to link-local addresses
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        raise _refused(f"{host} resolves to {text!r}, which is no address") from None
    _refuse_always(host, address)
    if not private_allowed and not _are_public(address):
        raise _refused(
            f"{_where(host, address, 'which is ')}not a public address; the owner adds the host to "
            "actors.http_private_hosts if it is meant"
        )
    return address


def _refuse_always(host: str, address: Address) -> None:
    """Refuse what is refused whoever lists it."""
    for one in (address, *carried(address)):
        if (what := _never(one)) is not None:
            raise _refused(
                f"{_where(host, address)}{what}, which no step may ask, whatever the lists say"
            )


def _where(host: str, address: Address, which: str = "") -> str:
    """How a sentence about an address begins, where the host may be the address itself."""
    return f"{host} is " if host == str(address) else f"{host} is at {address}, {which}"


def _are_public(address: Address) -> bool:
    return all(_is_public(one) for one in (address, *carried(address)))


def carried(address: Address) -> Iterator[ipaddress.IPv4Address]:
    """IPv4 addresses inside an IPv6 address: where its packets may end in truth."""
    if isinstance(address, ipaddress.IPv4Address):
        return
    if address.ipv4_mapped is not None:
        yield address.ipv4_mapped
    if address.sixtofour is not None:
        yield address.sixtofour
    if address.teredo is not None:
        yield from address.teredo
    is_compatible = address in _COMPATIBLE and int(address) > 1
    if is_compatible or any(address in network for network in _NAT64):
        yield ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)


def _never(address: Address) -> str | None:
    """What an address is that is refused whoever lists it."""
    if address in _METADATA_ADDRESSES:
        return "a metadata server"
    if address.is_link_local:
        return "a link-local address (metadata servers are there)"
    if address.is_multicast:
        return "a multicast address"
    if address.is_unspecified:
        return "no address of a host"
    if isinstance(address, ipaddress.IPv4Address) and address.is_reserved:
        return "a reserved address"
    return None


def _is_public(address: Address) -> bool:
    # site-local addresses are deprecated (RFC 3879) and yet count as global in Python
    is_site_local = isinstance(address, ipaddress.IPv6Address) and address.is_site_local
    return address.is_global and not is_site_local


def _invalid(message: str) -> StepError:
    return StepError("invalid", message, retryable=False)


def _refused(message: str) -> StepError:
    return StepError("invalid", message, retryable=False)
