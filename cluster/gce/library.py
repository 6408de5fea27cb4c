"""`google.cloud.compute_v1` without the hundred clients that nobody here uses.

The package imports every client of the Compute API when it is first named: 110 MB and five to ten
seconds, most of it in an autoscaler that has to launch its first machine, and in a controller that
may have 120 MB. Here the package's own `__init__` is not run. Its messages and a client are
imported when they are first asked for, by the package's own modules: one for each client below
`services`, all messages in `types.compute`.
"""

from __future__ import annotations

import re
import sys
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

PACKAGE = "google.cloud.compute_v1"
_DROPPED = "Docstrings are dropped."
_WORD = re.compile(r"(?<!^)(?=[A-Z])")


class _Library(ModuleType):
    """Stands for the package, for everybody in this process; any of its names can be had."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"module {PACKAGE!r} has no attribute {name!r}")
        module = f"{PACKAGE}.types.compute"
        if name.endswith("Client"):
            # ZoneOperationsClient, ZoneOperationsAsyncClient: services.zone_operations
            service = name.removesuffix("Client").removesuffix("Async")
            module = f"{PACKAGE}.services.{_WORD.sub('_', service).lower()}"
        try:
            found = import_module(module)
        except ModuleNotFoundError as error:
            raise AttributeError(f"module {PACKAGE!r} has no attribute {name!r}") from error
        self._drop_docstrings()
        value = getattr(found, name)
        setattr(self, name, value)
        return value

    def _drop_docstrings(self) -> None:
        """Those of the messages are 4 MB, and a program does not read them."""
        messages = sys.modules.get(f"{PACKAGE}.types.compute")
        if messages is None or messages.__doc__ == _DROPPED:
            return
        messages.__doc__ = _DROPPED
        for message in list(vars(messages).values()):
            if isinstance(message, type) and message.__module__ == messages.__name__:
                message.__doc__ = None
                for inner in vars(message).values():
                    if isinstance(inner, type) and inner.__module__ == messages.__name__:
                        inner.__doc__ = None


def compute_library() -> Any:
    """The package, or what stands for it.

    Raises:
        ImportError: google-cloud-compute is not installed.
    """
    if PACKAGE in sys.modules:
        return sys.modules[PACKAGE]
    spec = find_spec(PACKAGE)  # imports the packages above it, and not itself
    if spec is None or spec.submodule_search_locations is None:
        raise ImportError(f"no package {PACKAGE}")
    library = _Library(PACKAGE)
    library.__spec__ = spec
    library.__path__ = list(spec.submodule_search_locations)
    sys.modules[PACKAGE] = library
    return library
