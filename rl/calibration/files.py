"""A fit as a file: JSON with a format version and the hash of what it says."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NoReturn

from ironcliw.errors import DataError, NewerFormatError
from rl.calibration.fit import Arrivals, Fit, LogNormal

FORMAT = 1


def save_fit(path: Path, fit: Fit) -> Fit:
    """Write a fit, in one step; returns it with its digest.

    Raises:
        DataError: the file cannot be written.
    """
    page = _page(fit)
    text = json.dumps({"format_version": FORMAT, "sha256": _digest(page), "fit": page}, indent=1)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(text + "\n", encoding="utf-8")
        beside.replace(path)
    except OSError as error:
        raise DataError(f"the fit cannot be written to {path} ({error.strerror})") from error
    return replace(fit, digest=_digest(page))


def with_digest(fit: Fit) -> Fit:
    """The same with the digest that its file would have."""
    return replace(fit, digest=_digest(_page(fit)))


def load_fit(path: Path) -> Fit:
    """A fit from its file.

    Raises:
        DataError: it cannot be read, is damaged, or holds what is impossible.
        NewerFormatError: a newer release has written it.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
    except OSError as error:
        raise DataError(
            f"the fit {path} cannot be read ({error.strerror}); make one by "
            "`ironcliw route calibrate`"
        ) from error
    except ValueError as error:
        raise DataError(f"the fit {path} is damaged: {error}; make it again") from error
    version = found.get("format_version") if isinstance(found, dict) else None
    if not isinstance(version, int) or not isinstance(found.get("fit"), dict):
        raise DataError(f"{path} is no fit; make one by `ironcliw route calibrate`")
    if version > FORMAT:
        raise NewerFormatError(
            f"the fit {path} has format {version}, this release reads up to {FORMAT}; upgrade "
            "ironcliw, or fit again"
        )
    page = found["fit"]
    digest = _digest(page)
    if found.get("sha256") != digest:
        raise DataError(
            f"the fit {path} was changed after it was written: its content has the hash "
            f"{digest[:12]}, it says {str(found.get('sha256'))[:12]}; fit again"
        )
    try:
        return replace(_fit(page), digest=digest)
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"the fit {path} lacks a part or has one too many: {error}") from error


def _page(fit: Fit) -> dict[str, Any]:
    page = asdict(fit)
    del page["digest"]
    return page


def _digest(page: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(page, sort_keys=True, allow_nan=False).encode()).hexdigest()


def _fit(page: Mapping[str, Any]) -> Fit:
    values = dict(page)
    values["durations"] = {
        target: {place: LogNormal(**one) for place, one in own.items()}
        for target, own in page["durations"].items()
    }
    for name in ("pooled", "memory"):
        values[name] = {key: LogNormal(**one) for key, one in page[name].items()}
    for name in ("pooled_memory", "slowdown", "boot"):
        values[name] = LogNormal(**page[name])
    values["arrivals"] = Arrivals(**page["arrivals"])
    return Fit(**values)


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"it holds {name}, which is no number")
