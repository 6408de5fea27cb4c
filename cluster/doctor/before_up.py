"""What `ironcliw up` wants to know of the cloud before a head may launch machines there.

The same checks as `ironcliw doctor` makes, but for those that only people can act on. A cloud that
does not answer is no reason to leave the local service down: that is told, and the head starts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from cluster.doctor.checks import check_disk, check_keep_warm, check_ports
from cluster.doctor.cloud import check_access, check_budget, check_clock
from cluster.doctor.network import check_address, check_vpn
from cluster.doctor.probes import Probes, real_probes
from cluster.doctor.report import Check, State
from cluster.doctor.security import check_names, check_secrets
from cluster.head.gcs_storage import CloudOrigin, GcsStorage
from cluster.money.ledger import Ledger
from cluster.money.prices import PriceTable
from ironcliw.errors import SettingsError
from ironcliw.settings import Settings
from ironcliw.store import Store

_WITHOUT_THE_CLOUD = (
    check_ports,
    check_disk,
    check_budget,
    check_keep_warm,
    check_vpn,
    check_address,
)


def check_cloud(settings: Settings) -> list[str]:
    """Named by `cluster.head.preflight`; returns what is worth telling.

    Raises:
        SettingsError: No machine could be launched: the message says why, and what to do.
    """
    return judge(settings, real_probes(settings))


def check_elsewhere(settings: Settings) -> None:
    """Named by `cluster.head.preflight`, where the project or the cluster's name was changed.

    Raises:
        SettingsError: Machines of the earlier head have not ended, by the ledger.
        StoreError: The ledger cannot be read.
    """
    before, now = GcsStorage(settings).cloud(), CloudOrigin.of(settings.cloud)
    with Store(settings.store_url) as store:
        store.migrate()
        ledger = Ledger(store, PriceTable.of(settings.budget), settings.budget)
        rows = ledger.intervals(ledger.now())
    left = [f"{row.name} in {row.zone}" for row in rows if row.ended_at is None]
    if left:
        raise SettingsError(
            f"the settings mean {now}, and the earlier head has machines in {before} that nobody "
            f"would look after: {', '.join(left)}; run `ironcliw down` first, which deletes them "
            "where they are, or set cloud.project, cloud.cluster_name and cloud.api_endpoint back"
        )


def judge(settings: Settings, probes: Probes) -> list[str]:
    """The same, looking through given probes."""
    notes: list[str] = []
    wrong: list[Check] = []
    for check in _checks(settings, probes):
        if check.state is State.ERROR and check.passes:
            notes.append(f"{check.found}; no machine is launched until that passes")
            break
        if check.state is State.ERROR:
            wrong.append(check)
        elif check.state is State.WARNING:
            notes.append(f"{check.name}: {check.found}; {check.next_step}")
    if wrong:
        told = "; and ".join(f"{one.name}: {one.found}; {one.next_step}" for one in wrong)
        raise SettingsError(
            f"workers in the cloud cannot be had: {told}. `ironcliw doctor` checks all again; "
            "without cloud.project the head starts alone"
        )
    return notes


def _checks(settings: Settings, probes: Probes) -> Iterator[Check]:
    for check in _WITHOUT_THE_CLOUD:
        yield check(settings, probes)
    clock = check_clock(settings, probes)
    if not clock.passes:
        # before the others: with a clock that is wrong, TLS and credentials are refused as well
        yield clock
    is_well = True
    for found in check_access(settings, probes):
        is_well = is_well and found.state is not State.ERROR
        yield found
    if is_well:
        # machines of another head are kept apart: they are told of, and no reason to refuse
        yield check_names(settings, probes)
        yield check_secrets(settings, probes)
    if clock.passes:
        # the client was answered, so the cloud is there: only its time is not known
        yield dataclasses.replace(clock, state=State.WARNING)
