"""Which adapters may be asked for: those of the settings, and those that training has published.

A model id `BASE:NAME` is a base of the catalogue under an adapter. A published name has versions:
`BASE:NAME@2` is one of them, `BASE:NAME` the newest. Settings win over what was published.
"""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ironcliw.adapter_record import NAME, PublishedAdapter
from ironcliw.adapters import names, register_folder, versions
from ironcliw.errors import ModelNotFoundError, SettingsError, StoreError
from ironcliw.head_record import AdapterKind

if TYPE_CHECKING:
    from ironcliw.setting_sections import AdapterSettings

logger = logging.getLogger(__name__)

_ADDRESS = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,62})(?:@([1-9][0-9]{0,7}))?")


@dataclasses.dataclass(frozen=True, slots=True)
class AdapterCard:
    """One adapter as it is served.

    Attributes:
        name: Of the adapter.
        base: Id of its base.
        source: `dir:PATH`, a path, or a URI.
        version: Of a published one; 0: of the settings.
        digest: `adapter_digest` that its files must have; None: any.
        base_digest: `weights_digest` that the base must have; None: any.
        kind: `lora`, or `head`: a classifier over the base's vectors.
    """

    name: str
    base: str
    source: str
    version: int = 0
    digest: str | None = None
    base_digest: str | None = None
    kind: AdapterKind = "lora"

    @property
    def model_id(self) -> str:
        """Names exactly this one, whatever is published later."""
        return f"{self.base}:{self.name}" + (f"@{self.version}" if self.version else "")

    @property
    def is_local(self) -> bool:
        """Whether its files are on the machine of the head, and on no other."""
        return "://" not in self.source

    @classmethod
    def of(cls, record: PublishedAdapter) -> AdapterCard:
        """A published one."""
        return cls(
            record.name,
            record.base,
            record.source,
            record.version,
            record.digest,
            record.base_digest,
            record.kind,
        )


class AdapterCatalog:
    """The adapters of this machine; one that is published later is found, too.

    Args:
        configured: The settings' section.
        bases: Ids of the models that there are.
        state_dir: Where the register is; None: there is none.

    Raises:
        SettingsError: a setting names no adapter, or a base that is not there.
    """

    def __init__(
        self,
        configured: Mapping[str, AdapterSettings],
        bases: Mapping[str, object],
        state_dir: Path | None = None,
    ) -> None:
        self._configured = {
            name: AdapterCard(name, given.base, given.source, digest=given.digest, kind=given.kind)
            for name, given in configured.items()
        }
        for name, card in self._configured.items():
            if not NAME.fullmatch(name):
                raise SettingsError(
                    f"setting adapters.{name}: {name!r} is no name for an adapter; use letters, "
                    "digits, '.', '_' and '-'"
                )
            if card.base not in bases:
                raise SettingsError(
                    f"setting adapters.{name}.base is {card.base!r}, which is no model; known "
                    f"models: {', '.join(sorted(bases, key=str.lower))}"
                )
        self._state_dir = state_dir
        self._read: dict[str, tuple[int, tuple[AdapterCard, ...]]] = {}
        self._learned: dict[str, AdapterCard] = {}

    def find(self, base: str, address: str) -> AdapterCard:
        """The adapter that `BASE:ADDRESS` means.

        Raises:
            ModelNotFoundError: there is none; the message names those of the base.
            StoreError: its record is damaged, or of a newer release.
        """
        if learned := self._learned.get(f"{base}:{address}"):
            return learned
        found = _ADDRESS.fullmatch(address)
        name, version = found.groups() if found else (address, None)
        configured = self._configured.get(name)
        if configured is not None and configured.base == base and version is None:
            return configured
        kept = [card for card in self._versions(name) if card.base == base] if found else []
        if version is not None:
            kept = [card for card in kept if card.version == int(version)]
        if not kept:
            raise ModelNotFoundError(self._unknown(base, address), param="model")
        return kept[-1]

    def learn(self, card: AdapterCard) -> None:
        """Know an adapter that was found elsewhere: a replica in the cloud has no register."""
        self._learned.setdefault(card.model_id, card)

    def __iter__(self) -> Iterator[AdapterCard]:
        """Every adapter of the settings, and the newest version of each published name."""
        yield from self._configured.values()
        if self._state_dir is None:
            return
        for name in names(self._state_dir):
            try:
                kept = self._versions(name)
            except StoreError as error:
                # one bad record must not hide the others; asking for it says what is wrong
                logger.warning("adapter %s is not listed: %s", name, error)
                continue
            if kept and name not in self._configured:
                yield kept[-1]

    def _versions(self, name: str) -> tuple[AdapterCard, ...]:
        """Of a published name; read again when one was added."""
        if self._state_dir is None:
            return ()
        try:
            changed = (register_folder(self._state_dir) / name).stat().st_mtime_ns
        except OSError:
            return ()
        known = self._read.get(name)
        if known is None or known[0] != changed:
            cards = tuple(AdapterCard.of(record) for record in versions(self._state_dir, name))
            known = self._read[name] = (changed, cards)
        return known[1]

    def _unknown(self, base: str, address: str) -> str:
        here = sorted(card.model_id for card in self if card.base == base)
        others = [
            card.model_id
            for card in self
            if card.name == address.partition("@")[0] and card.base != base
        ]
        known = f"its adapters: {', '.join(here)}" if here else "it has no adapters"
        hint = f"; did you mean {others[0]}?" if others else ""
        return f"no adapter {address!r} of {base}; {known}{hint}"
