"""API keys: who may call the service, for what, and how many requests at once.

A secret reads `icw-<8 characters>-<43 characters>`: the first part is public and names the key, the
second holds 256 random bits. Only the SHA-256 of the secret is stored. Slow hashes (bcrypt, argon2)
exist because people choose guessable passwords; nobody guesses 256 random bits, so a slow hash
would protect nothing and cost the ingress tens of milliseconds a request.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum

from sqlalchemy import (
    CheckConstraint,
    Column,
    Index,
    Integer,
    Row,
    Select,
    String,
    Table,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.exc import IntegrityError

from ironcliw.errors import ConflictError, NotFoundError, RequestError
from ironcliw.store import Store, UtcDateTime, metadata

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_ID = re.compile(r"[0-9a-f]{8}")
_SECRET = re.compile(r"(icw-[0-9a-f]{8})-[A-Za-z0-9_-]{43}")
_NOBODY = "0" * 64  # compared where no key has the prefix, so that both answers take as long
_ACTIVE = text("revoked_at IS NULL")

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String(8), primary_key=True),
    Column("name", String(63), nullable=False),
    Column("prefix", String(12), nullable=False, unique=True),
    Column("hash", String(64), nullable=False),
    Column("scopes", String(255), nullable=False),  # separated by spaces, as in RFC 6749
    Column("max_concurrency", Integer),
    Column("created_at", UtcDateTime, nullable=False),
    Column("revoked_at", UtcDateTime),
    Column("last_used_at", UtcDateTime),
    CheckConstraint("max_concurrency > 0", name="max_concurrency"),
    # among active keys only: a key is rotated by revoking it and creating its name anew
    Index(
        "ix_api_keys_active_name",
        "name",
        unique=True,
        sqlite_where=_ACTIVE,
        postgresql_where=_ACTIVE,
    ),
)


class Scope(StrEnum):
    """What a key may do."""

    INFER = "infer"
    WORKFLOW = "workflow"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One key, without anything secret: fit for logs and tables.

    Attributes:
        id: 8 hexadecimal digits.
        name: Chosen by the owner; unique among the keys that are not revoked.
        prefix: The public start of the secret.
        scopes: What it may do; `Scope.ADMIN` implies the others.
        max_concurrency: Requests that it may have in flight; None for no limit of its own.
        created_at: UTC, like the other moments.
        revoked_at: None while the key works.
        last_used_at: About when it was last used; None if never.
    """

    id: str
    name: str
    prefix: str
    scopes: frozenset[Scope]
    max_concurrency: int | None
    created_at: datetime
    revoked_at: datetime | None = None
    last_used_at: datetime | None = None

    @property
    def active(self) -> bool:
        """Whether the key still works."""
        return self.revoked_at is None

    def allows(self, scope: Scope) -> bool:
        """Whether the key may do what the scope stands for."""
        return scope in self.scopes or Scope.ADMIN in self.scopes


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A key and the hash of its secret."""

    key: ApiKey
    hash: str = field(repr=False)


class ApiKeys:
    """The keys in the state store; what `ironcliw keys` works on.

    Args:
        store: Migrated already.
        now: The wall clock; aware datetimes.
    """

    def __init__(
        self, store: Store, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._store = store
        self._now = now

    def create(
        self,
        name: str,
        scopes: Collection[Scope | str] = (Scope.INFER,),
        max_concurrency: int | None = None,
    ) -> tuple[ApiKey, str]:
        """Makes a key and returns it with its secret, which nobody can show a second time.

        Raises:
            RequestError: The name, a scope or the limit breaks a rule; the message says which.
            ConflictError: An active key has this name.
        """
        _check_name(name)
        _check_concurrency(max_concurrency)
        id_ = secrets.token_hex(4)
        prefix = f"icw-{id_}"
        secret = f"{prefix}-{secrets.token_urlsafe(32)}"
        key = ApiKey(id_, name, prefix, _check_scopes(scopes), max_concurrency, self._now())
        row = {
            "id": id_,
            "name": name,
            "prefix": prefix,
            "hash": _digest(secret),
            "scopes": " ".join(sorted(key.scopes)),
            "max_concurrency": max_concurrency,
            "created_at": key.created_at,
        }
        try:
            with self._store.write() as connection:
                connection.execute(api_keys.insert(), row)
        except IntegrityError as error:
            raise ConflictError(
                f"an API key named {name!r} exists already; revoke it first or choose another name",
                param="name",
            ) from error
        return key, secret

    def list(self) -> Sequence[ApiKey]:
        """Every key, the revoked ones too, oldest first."""
        return [stored.key for stored in self._select(select(api_keys))]

    def revoke(self, name_or_id: str) -> ApiKey:
        """Ends a key for good; ingresses stop accepting it at their next refresh.

        A key that was revoked before is returned as it is.

        Raises:
            NotFoundError: No key has this name or id.
        """
        matches = or_(api_keys.c.id == name_or_id, api_keys.c.name == name_or_id)
        found = [stored.key for stored in self._select(select(api_keys).where(matches))]
        if not found:
            names = ", ".join(sorted({key.name for key in self.list() if key.active})) or "none"
            raise NotFoundError(
                f"no API key has the name or id {name_or_id!r}; active keys: {names}", param="name"
            )
        # names may repeat among revoked keys: the active one is meant, else the newest
        key = max(found, key=lambda key: (key.active, key.created_at))
        still_active = (api_keys.c.id == key.id) & api_keys.c.revoked_at.is_(None)
        with self._store.write() as connection:
            connection.execute(update(api_keys).where(still_active).values(revoked_at=self._now()))
        return self._select(select(api_keys).where(api_keys.c.id == key.id))[0].key

    def verify(self, secret: str) -> ApiKey | None:
        """The active key that a secret belongs to; reads the store at every call.

        The ingress uses `serve.keyring.KeyRing`, which does not.
        """
        form = _SECRET.fullmatch(secret)
        if form is None:
            return None
        query = select(api_keys).where(api_keys.c.prefix == form[1], _ACTIVE)
        return match(secret, {stored.key.prefix: stored for stored in self._select(query)})

    def active(self) -> dict[str, StoredKey]:
        """The keys that work, by prefix: one query."""
        query = select(api_keys).where(_ACTIVE)
        return {stored.key.prefix: stored for stored in self._select(query)}

    def touch(self, ids: Iterable[str]) -> None:
        """Notes that the keys were used just now."""
        used = api_keys.c.id.in_(sorted(ids))
        with self._store.write() as connection:
            connection.execute(update(api_keys).where(used).values(last_used_at=self._now()))

    def _select(self, query: Select[tuple[object, ...]]) -> Sequence[StoredKey]:
        with self._store.read() as connection:
            rows = connection.execute(query.order_by(api_keys.c.created_at, api_keys.c.id)).all()
        return [_stored(row) for row in rows]


def match(secret: str, keys: Mapping[str, StoredKey]) -> ApiKey | None:
    """The key that a secret belongs to, compared in constant time.

    Args:
        secret: What the client sent.
        keys: By prefix.
    """
    form = _SECRET.fullmatch(secret)
    if form is None:
        return None
    stored = keys.get(form[1])
    same = hmac.compare_digest(_digest(secret), _NOBODY if stored is None else stored.hash)
    return stored.key if same and stored is not None else None


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _stored(row: Row[tuple[object, ...]]) -> StoredKey:
    columns = dict(row._mapping)
    hash_ = columns.pop("hash")
    scopes = frozenset(Scope(name) for name in columns.pop("scopes").split())
    return StoredKey(ApiKey(scopes=scopes, **columns), hash_)


def _check_name(name: str) -> None:
    if _NAME.fullmatch(name) is None or _ID.fullmatch(name) is not None:
        raise RequestError(
            f"{name[:80]!r} is no name for an API key; use 1 to 63 letters, digits, '.', '_' or "
            "'-', beginning with a letter or a digit, and not 8 hexadecimal digits (an id)",
            param="name",
        )


def _check_scopes(scopes: Collection[Scope | str]) -> frozenset[Scope]:
    allowed = ", ".join(Scope)
    unknown = sorted(scope for scope in scopes if scope not in set(Scope))
    if unknown:
        raise RequestError(
            f"unknown scopes: {', '.join(map(repr, unknown))}; allowed are {allowed}",
            param="scopes",
        )
    if not scopes:
        raise RequestError(
            f"an API key needs at least one scope; allowed are {allowed}", param="scopes"
        )
    return frozenset(Scope(scope) for scope in scopes)


def _check_concurrency(limit: int | None) -> None:
    if limit is not None and limit < 1:
        raise RequestError(
            f"max_concurrency is {limit}; give 1 or more requests, or none for no limit",
            param="max_concurrency",
        )
