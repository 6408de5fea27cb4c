"""The page, the JSON file and the facts about the machine."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import pytest

from benchmarks import machine, report
from benchmarks.harness import Goal, NotRun, Row, Samples, ThemeResult

MACHINE = machine.Machine(
    cpu="Intel(R) Xeon(R) CPU E5-2673 v4 @ 2.30GHz",
    cores=2,
    memory_bytes=24 * 2**30,
    flags=("avx2", "fma"),
    gpu="none",
    system="Linux 6.1 x86_64",
)
MET = Row(
    "engines",
    "short texts",
    "texts/s",
    Samples.of([300.0, 330.0, 310.0]),
    {"peer": Samples.of([100.0])},
    Goal(3.0, relative=True),
)
MISSED = Row(
    "engines", "long texts", "texts/s", Samples.of([5.0]), {"peer": NotRun("absent")}, Goal(6.0)
)
CPUINFO = """processor : 0
model name\t: AMD EPYC 9B14
flags\t\t: fpu sse2 fma avx2 avx512f
processor : 1
"""


def test_the_page_holds_hardware_facts_rows_and_verdict() -> None:
    result = ThemeResult([MET, MISSED], ["a remark"])
    page = report.render("engines", result, MACHINE, {"commit": "abc+dirty", "date": "today"})
    assert "| CPU | Intel(R) Xeon(R) CPU E5-2673 v4 @ 2.30GHz, 2 cores |" in page
    assert "| memory | 24.0 GiB |" in page
    assert "| commit | abc+dirty |" in page
    assert (
        "| short texts | texts/s | 310 (300-330) | peer 100 | 3.1 | >= 3x | yes |"
    ) in page.splitlines()
    assert (
        "| long texts | texts/s | 5 | peer not run: absent |  | >= 6 | **no** |"
    ) in page.splitlines()
    assert "Goals met: 1 of 2; missed: long texts." in page
    assert page.endswith("- a remark\n")


@pytest.mark.parametrize(
    ("value", "text"),
    [(12345.6, "12,346"), (99.94, "99.9"), (1.2345, "1.23"), (0.99951, "0.99951"), (0.0, "0")],
)
def test_numbers_are_short_but_cosines_keep_their_digits(value: float, text: str) -> None:
    assert report.number(value) == text


def test_the_file_name_carries_theme_marks_hardware_and_date() -> None:
    name = report.file_name("engines", MACHINE, datetime.date(2026, 1, 2), "avx2")
    assert name == "engines-avx2-intel-xeon-e5-2673-v4-2c-2026-01-02.md"


def test_json_is_a_list_of_rows(tmp_path: Path) -> None:
    path = tmp_path / "new" / "rows.json"
    report.write_json(path, [MET, MISSED])
    rows = json.loads(path.read_text())
    assert [row["met"] for row in rows] == [True, False]
    assert set(rows[0]) == {"theme", "name", "unit", "ours", "peers", "ratio", "goal", "met"}


def test_cpuinfo_is_read() -> None:
    assert machine.cpu_model(CPUINFO) == "AMD EPYC 9B14"
    assert machine.cpu_flags(CPUINFO) == ("avx2", "fma", "avx512f")
    assert machine.cpu_model("") == ""


def test_this_machine_can_be_read() -> None:
    here = machine.Machine.read()
    assert here.cores >= 1
    assert here.memory_bytes > 2**28
    assert here.slug


def test_an_absent_package_is_said_to_be_absent(tmp_path: Path) -> None:
    assert machine.versions(["no-such-package"], tmp_path) == {"no-such-package": "not installed"}
    assert machine.versions(["pytest"])["pytest"] == pytest.__version__


def test_the_command_names_no_folder_of_this_machine() -> None:
    words = ["serving", "--data", "/home/me/data", "--rounds", "2", "--json=/tmp/x.json", "--quick"]
    assert report.command_line(words) == "`python -m benchmarks serving --rounds 2 --quick`"
    assert report.command_line(["engines", "--results", "out"]) == "`python -m benchmarks engines`"
