"""The compiled kernels: found, checked and registered once, or the reason why they are not there.

Everything works without them, through the references in plain torch, only slower; `state()` says
which of the two it is and why, and `ironcliw status` shows it.
"""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass
from types import ModuleType

import torch  # noqa: F401  # the binary needs torch's libraries in the process first

from ironcliw.errors import SettingsError
from ironcliw.settings import load_settings
from native_ops import presence

logger = logging.getLogger(__name__)

INTERFACE = 4
"""Of this side; csrc/bind/module.cpp says what each number stands for."""


@dataclass(frozen=True, slots=True)
class NativeState:
    """Whether the compiled kernels are in use.

    Attributes:
        level: Instruction set level in use, such as `avx512`; None: the references in torch.
        levels: All levels that this processor can use, lowest first.
        reason: Why the references are in use; empty where they are not.
    """

    level: str | None
    levels: tuple[str, ...] = ()
    reason: str = ""

    def __str__(self) -> str:
        return self.level or presence.slow_because(self.reason)


@functools.cache
def load() -> ModuleType | None:
    """The binary, its operators registered; None where there is none that fits. Warns once.

    The level is that of the setting `cpu_capability`, so that a process which imports an operator
    and nothing else computes with it, too.

    Raises:
        SettingsError: a setting is wrong, or this processor lacks that level.
    """
    module, reason = _find()
    if module is None:
        logger.warning("the slow reference operators in torch are used: %s", reason)
        return None
    wanted = load_settings().cpu_capability
    if wanted is not None:
        _choose(module, wanted)
    module.register_operators()
    return module


def state() -> NativeState:
    """What is in use now."""
    module = load()
    if module is None:
        return NativeState(None, reason=_find()[1])
    return NativeState(module.level(), tuple(module.levels()))


def choose_level(name: str) -> None:
    """Use a lower level than the processor's best (setting `cpu_capability`); "" for the best.

    Without the compiled kernels there is nothing to choose, which `load` has said.

    Raises:
        SettingsError: this processor, or the binary, has no such level.
    """
    module = load()
    if module is not None:
        _choose(module, name)


def _choose(module: ModuleType, name: str) -> None:
    if not module.choose_level(name):
        raise SettingsError(
            f"setting cpu_capability (IRONCLIW_CPU_CAPABILITY) is {name!r}; this machine can use "
            f"{', '.join(module.levels())}"
        )


def _find() -> tuple[ModuleType | None, str]:
    try:
        import _ironcliw_native as module
    except ModuleNotFoundError as error:
        if error.name != presence.MODULE:
            raise
        return None, presence.ABSENT
    except ImportError as error:
        return None, f"the compiled kernels cannot be loaded ({error}); run `make native`"
    if module.interface() != INTERFACE:
        return None, (
            f"the compiled kernels have interface {module.interface()}, this release needs "
            f"{INTERFACE}; run `make native`"
        )
    return module, ""
