"""Why a model computes in another precision than the one that is set: never in silence."""

from __future__ import annotations

from serve.engines.registry import GENERATION_TASKS


def precision_reason(wanted: str, used: str, *, task: str, device: str) -> str | None:
    """One sentence for the log and the status; None where the precision is as it was asked for.

    A generating model has none: its weights are in 16 bits or quantised, as its own settings say.

    Args:
        wanted: Setting `serve.precision`.
        used: The engine's precision.
        task: Of the model.
        device: The engine's.
    """
    if wanted in {"auto", used} or task in GENERATION_TASKS:
        return None
    return f"serve.precision is {wanted}, but it computes in {used}: {_cause(wanted, device)}"


def _cause(wanted: str, device: str) -> str:
    if wanted != "int8":
        return "its engine has no other"
    if device != "cpu":
        return f"int8 is computed on a CPU, and it is on {device}"
    # imported here: it brings torch along, which whoever loaded a model has
    from native_ops import binary

    return binary.state().reason or "no kernel computes its architecture in int8"
