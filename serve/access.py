"""Who may do what: API keys, scopes, requests at once, and the guard of a service without keys."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from urllib.parse import urlsplit

from ironcliw.errors import AuthenticationError, OverloadedError, PermissionDeniedError
from ironcliw.setting_sections import ServeSettings
from ironcliw.settings import LOOPBACK_HOSTS
from serve.keyring import KeyRing
from serve.keys import ApiKey, Scope

Headers = Mapping[bytes, bytes]


class Gatekeeper:
    """Decides about each request, in microseconds.

    With no key in the store and a loopback bind, everyone on this machine is the owner. Web pages
    are not: a browser sends their `Origin`, and a rebound host name shows in `Host`.

    Args:
        settings: Bind address, `auth` and the default limit.
        keys: The keys in force.
        retry_after: Seconds after which a caller over its limit should ask again.
    """

    def __init__(
        self,
        settings: ServeSettings,
        keys: KeyRing,
        retry_after: Callable[[], float] = lambda: 1.0,
    ) -> None:
        self._keys = keys
        self._loopback = settings.host in LOOPBACK_HOSTS
        self._required = settings.auth == "required" or not self._loopback
        self._default_limit = settings.max_concurrency_per_key
        self._retry_after = retry_after
        self._running: Counter[str] = Counter()

    def authenticate(self, headers: Headers, scope: Scope | None) -> ApiKey | None:
        """The caller's key; None for the owner on loopback.

        Args:
            headers: Names in lower case.
            scope: What the caller wants to do; None while that is not known.

        Raises:
            AuthenticationError: no key, or one that is not known.
            PermissionDeniedError: the key lacks the scope, or a web page is asking.
        """
        if not self._required and not self._keys.any():
            _refuse_web_pages(headers)
            return None
        secret = _bearer(headers)
        if secret is None:
            if self._required:
                raise AuthenticationError(
                    "this service needs an API key: send `Authorization: Bearer icw-...`; "
                    "`ironcliw keys create NAME` makes one"
                )
            _refuse_web_pages(headers)
            return None
        key = self._keys.lookup(secret)
        if key is None:
            raise AuthenticationError(
                f"the API key {secret[:12]}... is not known here, or was revoked"
            )
        if scope is not None and not key.allows(scope):
            raise PermissionDeniedError(
                f"the API key {key.name!r} has the scopes {' '.join(sorted(key.scopes))}; this "
                f"needs {scope.value}"
            )
        return key

    @contextmanager
    def slot(self, key: ApiKey | None) -> Iterator[None]:
        """Count a request against its key's limit while it runs.

        Raises:
            OverloadedError: the key has as many requests in flight as it may.
        """
        limit = None if key is None else key.max_concurrency or self._default_limit
        if key is None or limit is None:
            yield
            return
        if self._running[key.id] >= limit:
            raise OverloadedError(
                f"the API key {key.name!r} has {limit} requests in flight, as many as it may",
                retry_after=self._retry_after(),
                code="key_concurrency",
            )
        self._running[key.id] += 1
        try:
            yield
        finally:
            self._running[key.id] -= 1
            if not self._running[key.id]:
                del self._running[key.id]


def _bearer(headers: Headers) -> str | None:
    value = headers.get(b"authorization")
    if value is None:
        return None
    scheme, _, secret = value.decode("latin-1").partition(" ")
    if scheme.lower() != "bearer" or not secret.strip():
        raise AuthenticationError("the Authorization header must read `Bearer KEY`")
    return secret.strip()


def _refuse_web_pages(headers: Headers) -> None:
    for name in (b"origin", b"host"):
        value = headers.get(name)
        if value is None:
            continue
        text = value.decode("latin-1")
        try:
            host = urlsplit(text if name == b"origin" else "//" + text).hostname
        except ValueError:
            host = None
        if host not in LOOPBACK_HOSTS:
            raise PermissionDeniedError(
                f"the request's {name.decode()} is {text!r}: without an API key only this machine "
                "may ask, not a web page or another name for it",
                code="foreign_origin",
            )
