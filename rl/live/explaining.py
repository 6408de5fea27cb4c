"""Decisions and the standing, told to people; what `ironcliw route explain` and `status` print."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, or_, select

from actors.tables import actors_decisions as decisions
from ironcliw.errors import IroncliwError, NotFoundError
from ironcliw.settings import Settings
from rl.calibration.files import load_fit
from rl.live.base import base_of, base_parameters
from rl.live.mattered import mattered
from rl.live.nightly import read_night
from rl.live.state import read_standing
from rl.neural import Learned
from rl.policy import FIT_FILE, FOLDER, policy_path
from rl.promotion import SHARES, Standing

_DAY = 86_400.0
LEAST_LETTERS = 4
"""Of an id: fewer would be the beginning of many."""
_POLICY = "rl.policy:NumpyPolicy"


def explained(
    state_dir: Path, connection: Connection, id_: str, step: str | None = None
) -> list[dict[str, Any]]:
    """Decisions as pages, oldest first.

    Args:
        state_dir: With the policies that were installed.
        connection: To the state store.
        id_: Of a decision, or its first `LEAST_LETTERS` and more; or of a workflow.
        step: Only of this step; None: of all.

    Raises:
        NotFoundError: there is none of that id.
    """
    table = decisions
    is_it = or_(table.c.id == id_, table.c.workflow_id == id_)
    if len(id_) >= LEAST_LETTERS:
        is_it = or_(is_it, table.c.id.startswith(id_, autoescape=True))
    query = select(table).where(is_it)
    if step is not None:
        query = query.where(table.c.step == step)
    rows = connection.execute(query.order_by(table.c.at)).all()
    if not rows:
        raise NotFoundError(
            f"no decision of {id_!r} is logged"
            + ("" if step is None else f" for its step {step!r}")
            + "; a step with one place to go to is not logged, and neither is one when "
            "routing.log_decisions is off"
        )
    policies = _Policies(state_dir)
    return [_page(policies, row._asdict()) for row in rows]


class _Policies:
    """Installed policies, each read once."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._read: dict[str, Learned | None] = {}

    def of(self, digest: str) -> Learned | None:
        """None where it is not there any more, or cannot be used."""
        if digest not in self._read:
            try:
                self._read[digest] = Learned(policy_path(self._state_dir, digest))
            except IroncliwError:
                self._read[digest] = None
        return self._read[digest]


def status_of(settings: Settings, connection: Connection, now: float) -> dict[str, Any]:
    """Everything about the router, and the same in lines for people."""
    standing, _ = read_standing(connection)
    night = read_night(connection)
    counts = _counts(connection, now - _DAY)
    page: dict[str, Any] = {
        "setting": settings.routing.policy,
        "is_logged": settings.routing.log_decisions,
        "base": base_of(base_parameters(settings.state_dir / FOLDER)).name,
        "standing": asdict(standing),
        "is_silent": _is_silent(settings.state_dir, standing),
        "changes": [asdict(one) for one in standing.changes],
        "fit": _fit(settings.state_dir),
        "last_day": counts,
        "night": None if night is None else {"at": night[0], **night[1]},
    }
    page["lines"] = list(_lines(page, standing, now))
    return page


def _lines(page: Mapping[str, Any], standing: Standing, now: float) -> Sequence[str]:
    found = []
    if not page["is_logged"]:
        found.append("routing.log_decisions is off: nothing is learned, and no policy can rise")
    if page["setting"] != _POLICY:
        found.append(f"routing.policy is {page['setting']!r}; what follows waits for {_POLICY!r}")
    if page["is_silent"]:
        found.append("the learned policy has learned nothing: it decides as its base does")
    share = SHARES[standing.stage]
    name = standing.policy[:12] or "none"
    days = (now - standing.since) / _DAY if standing.since else 0.0
    found.append(
        f"learned policy {name}: {standing.stage} for {days:.1f} days, decides for {share:.0%}"
        + (" of the low priority" if standing.stage == "canary" else "")
    )
    found.append(f"elsewhere: {page['base'] if standing.base == 'tuned' else 'placement rules'}")
    if standing.waits_for:
        found.append(f"next stage waits: {standing.waits_for}")
    found.append(page["fit"])
    found += [f"last 24 h, {name}: {count}" for name, count in page["last_day"].items()]
    night = page["night"]
    if night is None:
        found.append("no night's work was done yet")
    else:
        found.append(
            f"last night's work {(now - night['at']) / 3600:.1f} h ago: {night['workflows']} "
            f"workflows, {night['decisions']} decisions"
        )
        for name in ("why_no_fit", "misfit", "why_no_gain"):
            if night.get(name):
                found.append(f"  {name.replace('_', ' ')}: {night[name]}")
        gain = night.get("gain")
        if gain and not gain["no_verdict"]:
            found.append(f"  saves {gain['low']:.4f} to {gain['high']:.4f} USD a decision")
        elif gain:
            found.append(f"  no verdict: {gain['no_verdict']}")
    return found


def _fit(state_dir: Path) -> str:
    path = state_dir / FOLDER / FIT_FILE
    if not path.exists():
        return "fit: none yet, the shipped priors are believed"
    try:
        fit = load_fit(path)
    except IroncliwError as error:
        return f"fit: cannot be used, the shipped priors are believed: {error}"
    return f"fit {fit.digest[:12]} of {fit.steps} steps"


def _is_silent(state_dir: Path, standing: Standing) -> bool:
    """Whether the policy of a standing is there and has learned nothing."""
    if not standing.policy:
        return False
    learned = _Policies(state_dir).of(standing.policy)
    return learned is not None and learned.policy.is_silent


def _counts(connection: Connection, since: float) -> dict[str, int]:
    """By who decided, why another did, and what was tried."""
    query = select(decisions.c.policy, decisions.c.details).where(decisions.c.at >= since)
    counts: Counter[str] = Counter()
    for row in connection.execute(query):
        details = row.details or {}
        counts[f"decided by {row.policy}"] += 1
        if details.get("fallback"):
            counts[f"fell back: {details['fallback']}"] += 1
        if details.get("forced"):
            counts["forced"] += 1
    return dict(counts.most_common())


def _page(policies: _Policies, row: Mapping[str, Any]) -> dict[str, Any]:
    details = row["details"] or {}
    moved = mattered(details, policies.of)
    features = [{"feature": name, "by": round(by, 4)} for by, name in moved]
    costs, scores = details.get("costs") or [], details.get("scores") or []
    refused = details.get("masked") or {}
    options = []
    for index, option in enumerate(row["options"]):
        name = option["name"]
        options.append(
            {
                "name": name,
                "is_chosen": index == row["chosen"],
                "cost": costs[index] if index < len(costs) else None,
                "score": scores[index] if index < len(scores) else None,
                "refused": refused.get(name) or (None if row["masks"][index] else "not allowed"),
            }
        )
    return {
        "id": row["id"],
        "at": row["at"],
        "workflow_id": row["workflow_id"],
        "step": row["step"],
        "attempt": row["attempt"],
        "policy": row["policy"],
        "chosen": row["options"][row["chosen"]]["name"],
        "propensity": row["propensity"],
        "why": _why(row, details),
        "options": options,
        "features": row["features"],
        "mattered": features,
        "shadow": details.get("shadow"),
        "outcome": row["outcome"],
        "lines": _about(row, details, features),
    }


def _why(row: Mapping[str, Any], details: Mapping[str, Any]) -> str:
    words = [f"by {row['policy']}"]
    own = details.get("chosen_by_policy")
    if own is not None and own != row["chosen"]:
        tried = row["options"][own]["name"]
        words.append(f"tried in place of {tried}, which costs a cent less at most")
    if details.get("forced"):
        words.append(f"forced although {details['forced']}")
    if details.get("fallback"):
        words.append(str(details["fallback"]))
    if row["propensity"] < 1:
        words.append(f"with probability {row['propensity']:.3f}")
    return ", ".join(words)


def _about(
    row: Mapping[str, Any], details: Mapping[str, Any], moved: Sequence[Mapping[str, Any]]
) -> list[str]:
    known = {name: value for name, value in row["features"].items() if value is not None}
    lines = [", ".join(f"{name} {value:g}" for name, value in known.items())]
    for name, parts in (details.get("parts") or {}).items():
        told = ", ".join(f"{part} {usd:.5f}" for part, usd in parts.items() if usd)
        lines.append(f"{name} is believed to cost: {told or 'nothing'}")
    if moved:
        words = [f"{one['feature']} {one['by']:+.3f}" for one in moved]
        lines.append(f"mattered: {', '.join(words)}")
    if details.get("shadow"):
        lines.append(f"the policy in the shadow would have taken: {details['shadow']}")
    if row["outcome"]:
        told = row["outcome"]
        lines.append(", ".join(f"{name} {value}" for name, value in told.items()))
    return [line for line in lines if line]
