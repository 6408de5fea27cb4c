"""What other layers do before a start and before an end, in a process of its own.

It imports the store, some 80 MB that a head in the foreground would otherwise hold for as long as
it runs. Run as `python -m cluster.head.preflight NAME`: settings on standard input, what the
function returned or the error, if there is one, on standard output, all pickled.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
from typing import Any

from cluster.names import load_by_name
from ironcliw.errors import ClusterError, IroncliwError
from ironcliw.settings import Settings

# the doctor knows the head, so the head knows the doctor by name only
CLOUD_CHECK = "cluster.doctor.before_up:check_cloud"
ELSEWHERE_CHECK = "cluster.doctor.before_up:check_elsewhere"
_MIGRATION = "cluster.head.preflight:migrate_store"


def run_preflight(settings: Settings) -> None:
    """Run the check that `cluster.head.preflight` names.

    Raises:
        IroncliwError: whatever the check raises.
    """
    _run(settings.cluster.preflight, "the check before the start", settings)


def run_before_down(settings: Settings) -> None:
    """Run what `cluster.before_down` names, if it names anything.

    Raises:
        IroncliwError: whatever it raises.
    """
    if settings.cluster.before_down is not None:
        _run(settings.cluster.before_down, "cluster.before_down", settings)


def run_cloud_check(settings: Settings) -> list[str]:
    """Whether machines can be launched at all; returns what is worth telling.

    Raises:
        SettingsError: They can not.
    """
    return list(_run(CLOUD_CHECK, "the check of the cloud", settings))


def run_elsewhere_check(settings: Settings) -> None:
    """Whether the earlier head has left no machine where these settings do not look.

    Raises:
        SettingsError: It has.
    """
    _run(ELSEWHERE_CHECK, "the check of the earlier head's machines", settings)


def run_migration(settings: Settings) -> None:
    """Bring the store's tables up to date, without holding what that takes, some 10 MB.

    Raises:
        IroncliwError: The store cannot be used.
    """
    _run(_MIGRATION, "the migration of the state store", settings)


def migrate_store(settings: Settings) -> None:
    """The same, in this process."""
    from ironcliw.store import Store

    with Store(settings.store_url) as store:
        store.migrate()


def _run(name: str, what: str, settings: Settings) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "cluster.head.preflight", name],
        input=pickle.dumps(settings),
        capture_output=True,
    )
    if done.returncode == 0:
        return pickle.loads(done.stdout)
    if not done.stdout:
        raise ClusterError(f"{what} failed: {done.stderr.decode().strip()}")
    error = pickle.loads(done.stdout)
    assert isinstance(error, IroncliwError)
    raise error


def main() -> None:
    """Call the function with the settings, and say what is wrong."""
    settings: Settings = pickle.load(sys.stdin.buffer)
    try:
        sys.stdout.buffer.write(pickle.dumps(load_by_name(sys.argv[1])(settings)))
    except IroncliwError as error:
        sys.stdout.buffer.write(pickle.dumps(error))
        sys.exit(1)


if __name__ == "__main__":
    main()
