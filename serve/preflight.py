"""What must hold before a head starts; light enough to run in the command line's process."""

from __future__ import annotations

from ironcliw.catalog import Catalog
from ironcliw.errors import SettingsError, UnsupportedError
from ironcliw.settings import Settings
from ironcliw.store import Store
from serve.engines.registry import require_served
from serve.host import use_cpu_capability
from serve.keys import ApiKeys


def check(settings: Settings) -> None:
    """Check and migrate the store, and refuse what cannot be: an unsafe bind, a pinned model that
    nobody knows, a level of the kernels that this machine lacks.

    Raises:
        SettingsError: with what to change.
        StoreError: the store is damaged, locked, or of a newer release.
    """
    catalog = Catalog.of(settings)
    unknown = [name for name in settings.serve.pinned_models if name not in catalog]
    if unknown:
        raise SettingsError(
            f"setting serve.pinned_models names {', '.join(unknown)}; known models: "
            f"{', '.join(sorted(catalog, key=str.lower))}"
        )
    for name in settings.serve.pinned_models:
        try:
            require_served(catalog[name])
        except UnsupportedError as error:
            raise SettingsError(f"setting serve.pinned_models: {error}") from error
    use_cpu_capability(settings.cpu_capability)
    store = Store(settings.store_url)
    store.check()
    store.migrate()
    keys = [key for key in ApiKeys(store).list() if key.revoked_at is None]
    store.close()
    if not keys and not settings.is_loopback:
        raise SettingsError(
            f"setting serve.host is {settings.serve.host!r}, which other machines can reach, and "
            "there is no API key: run `ironcliw keys create NAME --scope infer` first, or listen "
            "on 127.0.0.1"
        )
    if not keys and settings.serve.auth == "required":
        raise SettingsError(
            "setting serve.auth is 'required' and there is no API key: run `ironcliw keys create "
            "NAME --scope infer` first"
        )
