"""From the log to a policy file and its report: what `ironcliw route train` does.

Training needs torch and the report minutes, so each is a process of its own: `python -m rl train`
and `python -m rl report`. A head that only decides needs neither.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ironcliw.errors import DataError, IroncliwError, SettingsError
from ironcliw.settings import Settings, process_environment
from rl.arguments import check_place
from rl.calibration.files import save_fit, with_digest
from rl.calibration.fit import fit_log
from rl.calibration.regimes import regime_of_fit
from rl.learning.command import REGIMES
from rl.live.base import base_parameters
from rl.live.log import Log
from rl.live.nightly import known
from rl.parameters import load_parameters, load_tuned, of_the_cloud, written
from rl.policy import FOLDER, policy_path
from rl.policy_file import load_policy
from rl.regime import Regime, load_regime, regime_of

HELD_OUT = tuple(REGIMES[0].with_name(f"{name}.toml") for name in ("bad_estimates", "bursty"))


@dataclass(frozen=True, slots=True)
class Plan:
    """What is made.

    Attributes:
        policy: File of the policy.
        report: File of the document.
        minutes: Of training.
        seed: Of it.
        days: Of each regime, in the report.
        is_quick: A few days alone, for finding a broken path.
        base: File of the policy to begin at; this head's own or the shipped one without.
        fit: File of the fit to the log; None: it is written nowhere.
    """

    policy: Path
    report: Path
    minutes: float
    seed: int
    days: int
    is_quick: bool = False
    base: Path | None = None
    fit: Path | None = None


def train_policy(
    settings: Settings, plan: Plan, log: Log, tell: Callable[[str], None]
) -> dict[str, Any]:
    """Fit, learn, compare.

    Args:
        settings: Of the cluster.
        plan: What is made.
        log: Of the running system.
        tell: Told of the progress.

    Raises:
        DataError: a file cannot be written.
        SettingsError: a place for one is none, or the base's file cannot be used.
        IroncliwError: training or the comparison failed; the message ends as theirs did.
    """
    folder = settings.state_dir / FOLDER
    try:
        folder.mkdir(parents=True, exist_ok=True)
        plan.policy.parent.mkdir(parents=True, exist_ok=True)
        plan.report.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{error.filename} cannot be made ({error.strerror})") from error
    check_place(plan.policy, plan.report)
    own = calibrated(settings, folder, log, tell, plan.fit)
    regimes = [*(here(path, settings, folder) for path in REGIMES), *own]
    held_out = [here(path, settings, folder) for path in HELD_OUT]
    begun, beside = _priced_here(settings, plan, folder)
    _run(
        ["train", *_each("--regime", regimes), "--seed", str(plan.seed), "--minutes",
         str(plan.minutes), "--base", str(begun), *(["--quick"] if plan.is_quick else []),
         "--out", str(plan.policy)],
        "training",
    )  # fmt: skip
    policy = load_policy(plan.policy)
    tell(f"trained {policy.digest[:12]}; now every policy on the days of each regime")
    searched = str(max(1, min(24, plan.days // 4)))
    size = ["--quick"] if plan.is_quick else ["--days", str(plan.days), "--clairvoyant", searched]
    _run(
        ["report", *_each("--regime", [*regimes, *held_out]), "--policy", str(plan.policy), *size,
         "--parameters", str(beside), "--work", str(folder / "report"), "--out", str(plan.report)],
        "the report",
    )  # fmt: skip
    return {
        "digest": policy.digest,
        "is_silent": policy.is_silent,
        "policy": str(plan.policy),
        "report": str(plan.report),
        "regimes": [str(path) for path in regimes],
    }


def _priced_here(settings: Settings, plan: Plan, folder: Path) -> tuple[Path, Path]:
    """Files of the base and of the tuned greedy policy, as this head's idle machines are priced.

    In the running system machines go after `cloud.idle_minutes`, whoever decides; what is learned
    beside another price of a purchase would be applied to this one.

    Raises:
        SettingsError: the base's file cannot be used.
        DataError: a file cannot be written.
    """
    idle = 60.0 * settings.cloud.idle_minutes
    base = base_parameters(folder) if plan.base is None else load_tuned(plan.base)
    about = f"ironcliw route train, for cloud.idle_minutes {settings.cloud.idle_minutes:g}"
    found = []
    for name, parameters in (("begun_at.toml", base), ("tuned_greedy.toml", load_parameters())):
        text = written(of_the_cloud(parameters, idle), {}, about)
        found.append(_write(folder / name, text))
    return found[0], found[1]


def calibrated(
    settings: Settings,
    folder: Path,
    log: Log,
    tell: Callable[[str], None],
    fit_file: Path | None,
) -> list[Path]:
    """The file of the log's own regime; none where the log holds too little."""
    try:
        found = fit_log(log)
        fit = with_digest(found) if fit_file is None else save_fit(fit_file, found)
    except DataError as error:
        tell(f"the shipped regimes are trained on: {error}")
        return []
    regime = regime_of_fit(fit, known(settings))
    path = _written(regime, folder / "calibrated.toml", f"fit {fit.digest}")
    tell(f"fitted {fit.steps} steps of the log into {path}")
    return [path]


def here(path: Path, settings: Settings, folder: Path) -> Path:
    """A shipped regime on this head, under its caps: what is learned elsewhere is not used here.

    Machines stay as shipped where there is no cloud yet, else there would be nothing to learn.

    Args:
        path: Of the shipped one.
        settings: Of the cluster.
        folder: Where the file is written.

    Raises:
        SettingsError: this head is too small for what a regime may be.
        DataError: the file cannot be written.
    """
    values = load_regime(path).model_dump(mode="json")
    for section, own in known(settings).items():
        if section != "spot" or settings.cloud.project:
            values[section] = {**values[section], **own}
    regime = regime_of(values, f"{path.name} on this head")
    return _written(regime, folder / path.name, f"{path.name} on this head")


def _written(regime: Regime, path: Path, about: str) -> Path:
    return _write(path, toml_of(regime, about))


def _write(path: Path, text: str) -> Path:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path} cannot be written ({error.strerror})") from error
    return path


def installed(state_dir: Path, file: Path) -> str:
    """Copy a policy to where the router looks for it; its digest.

    Raises:
        SettingsError: it is no policy, or damaged, or of other features.
        DataError: it cannot be copied.
    """
    digest = load_policy(file).digest
    target = policy_path(state_dir, digest)
    beside = target.with_suffix(".new")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, beside)
        beside.replace(target)
    except OSError as error:
        raise DataError(f"{target} cannot be written ({error.strerror})") from error
    if load_policy(target).digest != digest:
        raise SettingsError(f"{file} was changed while it was copied; install it again")
    return digest


def toml_of(regime: Regime, about: str) -> str:
    """A regime as a file that `rl.regime.load_regime` reads.

    Args:
        regime: To be written.
        about: A line for its top.
    """
    lines, sections = [f"# {about}"], list[str]()
    for name, value in regime.model_dump(mode="json").items():
        if isinstance(value, dict):
            sections += ["", f"[{name}]"]
            sections += [f"{key} = {_toml(one)}" for key, one in value.items()]
        else:
            lines.append(f"{name} = {_toml(value)}")
    return "\n".join([*lines, *sections]) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(one) for one in value) + "]"
    return repr(value)


def _each(option: str, paths: Sequence[Path]) -> list[str]:
    return [word for path in paths for word in (option, str(path))]


def _run(words: Sequence[str], what: str) -> None:
    """A command of `python -m rl`; its output goes where ours goes."""
    command = [sys.executable, "-m", "rl", *words]
    done = subprocess.run(
        command, stderr=subprocess.PIPE, env=process_environment(), text=True, check=False
    )
    if done.returncode:
        last = done.stderr.strip().rpartition("\n")[2].removeprefix("error: ")
        raise IroncliwError(f"{what} failed: {last}", code="training_failed")
