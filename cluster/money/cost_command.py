"""`ironcliw cost`: the month's bill so far, what it will be, and what it can be at the most."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ironcliw.console import command_settings, note, write_json, write_line, write_table

if TYPE_CHECKING:
    from cluster.money.cost import CostReport

cost = typer.Typer(help="What the cloud has cost, will and may cost.")

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


@cost.callback(invoke_without_command=True)
def _cost(context: typer.Context, as_json: Json = False) -> None:
    """What the cloud has cost, will and may cost in this month (UTC)."""
    if context.invoked_subcommand is not None:
        return
    # SQLAlchemy takes a while to load, which `--help` need not wait for
    from cluster.money.budget import check_caps, month_of
    from cluster.money.cost import report
    from cluster.money.ledger import Ledger
    from cluster.money.prices import PriceTable
    from ironcliw.store import Store

    settings = command_settings()
    prices = PriceTable.of(settings.budget)
    with Store(settings.store_url) as store:
        store.migrate()
        ledger = Ledger(store, prices, settings.budget)
        now = ledger.now()
        month = month_of(now)
        rows, left = ledger.intervals(month.start), ledger.egress_bytes(month)
        found = report(rows, left, now, prices, ledger.standing()[1].committed)
    if as_json:
        write_json(found.document())
        return
    _write(found)
    if settings.cloud.project is not None:
        error = check_caps(settings.budget, prices, settings.cloud)
        if error is not None:
            note(f"no worker can be launched: {error}")


@cost.command("table")
def _table(as_json: Json = False) -> None:
    """What one worker costs at 4, 8, 12 and 24 hours a day, Spot and regular."""
    from cluster.money.cost import LOCAL_USD, monthly_table
    from cluster.money.prices import PriceTable

    settings = command_settings()
    prices, name = PriceTable.of(settings.budget), settings.cloud.machine_type
    spot, regular = prices.hourly(name, "spot"), prices.hourly(name, "regular")
    rows = [
        {**row, "regular_month": other["month"], "local_month": LOCAL_USD}
        for row, other in zip(monthly_table(spot), monthly_table(regular), strict=True)
    ]
    if as_json:
        write_json({"machine_type": name, "spot": spot, "regular": regular, "rows": rows})
        return
    write_line(
        f"{name} at ${spot:.4f} an hour Spot, ${regular:.4f} regular, without disk and address; "
        "a month has 30 days"
    )
    columns = ("hours a day", "Spot a month", "Spot a year", "regular a month", "at home")
    write_table(
        columns,
        [(row["hours_a_day"], *(f"${row[key]:.2f}" for key in list(row)[1:])) for row in rows],
    )


def _write(found: CostReport) -> None:
    """Draws the report."""
    lines = [(f"{name} to date", _usd(value)) for name, value in found.to_date.items()]
    write_line(f"{found.month} (UTC), {found.vm_hours:.1f} VM hours, {found.egress_gb:.2f} GB out")
    write_table(
        ("what", "USD"),
        [
            *lines,
            ("total to date", _usd(found.total)),
            ("forecast, as so far", _usd(found.linear)),
            (f"at the most (machines now: {found.machines})", _usd(found.committed)),
            ("cap (budget.month_usd)", _usd(found.cap)),
            ("the same at home", _usd(found.locally)),
            (
                "the same on regular machines",
                None if found.regular is None else _usd(found.regular),
            ),
        ],
    )
    if found.by_use:
        write_line("")
        write_table(("used by", "USD"), [(who, _usd(part)) for who, part in found.by_use.items()])


def _usd(value: float) -> str:
    # text, since the table writes a float with one digit
    return f"{value:.4f}"
