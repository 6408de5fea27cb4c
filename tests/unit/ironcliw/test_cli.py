"""The command line: what it loads, prints and exits with."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest

from ironcliw import console
from ironcliw.cli import COMMANDS, main
from ironcliw.errors import (
    ClusterError,
    IroncliwError,
    ModelNotFoundError,
    NotRunningError,
    OverloadedError,
    PermissionDeniedError,
    PortInUseError,
    SettingsError,
    UnsupportedError,
)

HEAVY = ("ray", "torch", "sqlalchemy", "httpx", "rich", "pydantic", "numpy", "serve.commands")
ROOT = Path(__file__).parents[3]


def run(*words: str) -> int:
    """Run a command line in this process and return its exit code."""
    with pytest.raises(SystemExit) as caught:
        main(words)
    return int(caught.value.code or 0)


@pytest.fixture
def local(service: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The command line talks to the fake service."""
    monkeypatch.setenv("IRONCLIW_CLIENT__BASE_URL", service.url)
    return service


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """No server runs: port 1 is reserved and unused."""
    monkeypatch.setenv("IRONCLIW_SERVE__PORT", "1")


def released() -> str:
    """The version that the distribution is built with."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return str(project["project"]["version"])


def test_help_is_quick_and_loads_nothing_heavy() -> None:
    program = (
        "import sys, time\n"
        "from ironcliw.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        f"loaded = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "print(time.process_time(), *loaded, file=sys.stderr)"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
        )
        for _ in range(3)
    ]
    assert all(name in runs[0].stdout for name in COMMANDS)
    seconds = [one.stderr.split() for one in runs]
    assert [words[1:] for words in seconds] == [[], [], []]
    # processor time, interpreter included, and the best of three: other work on the machine makes
    # the clock on the wall useless
    assert min(float(words[0]) for words in seconds) < 0.3


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out == f"ironcliw {released()}\n"


def test_a_mistyped_command_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("emed") == console.EXIT_USAGE
    assert "Did you mean 'embed'?" in capsys.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(name, "--help") == 0
    assert "--install-completion" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NotRunningError("x"), 3),
        (SettingsError("x"), 4),
        (ModelNotFoundError("x"), 4),
        (PermissionDeniedError("x"), 4),
        (UnsupportedError("x"), 4),
        (OverloadedError("x"), 1),
        (PortInUseError("x"), 1),
        (ClusterError("x"), 1),
        (IroncliwError("x"), 1),
    ],
)
def test_exit_codes(error: IroncliwError, code: int) -> None:
    assert console.exit_code(error) == code


def test_an_error_is_one_line(
    nobody: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("embed", "a") == console.EXIT_NOT_RUNNING
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("error: no server answers at http://127.0.0.1:1 ")
    assert output.err.count("\n") == 1


def test_an_error_is_json_where_asked(nobody: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("embed", "a", "--json") == console.EXIT_NOT_RUNNING
    assert json.loads(capsys.readouterr().err)["error"]["code"] == "not_running"


def test_a_text_that_reads_json_is_no_option(
    nobody: None, capsys: pytest.CaptureFixture[str]
) -> None:
    run("embed", "--", "--json")
    assert capsys.readouterr().err.startswith("error: ")


def test_a_wrong_setting(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IRONCLIW_SERVE__PORT", "high")
    assert run("models") == console.EXIT_BAD_REQUEST
    assert "setting serve.port from environment" in capsys.readouterr().err


def test_a_missing_optional_package_names_the_extra(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    for name in ("ironcliw.store", "serve.keys"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert run("keys", "list") == console.EXIT_BAD_REQUEST
    assert "'sqlalchemy', which is not installed; run `pip install 'ironcliw[local]'`" in (
        capsys.readouterr().err
    )


def test_a_missing_module_of_ours_is_a_bug_and_shown_as_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "serve.commands", None)
    with pytest.raises(ModuleNotFoundError, match=r"serve\.commands"):
        main(["models"])


def test_models_table(local: Any, capsys: pytest.CaptureFixture[str]) -> None:
    local.loaded.add("tiny")
    assert run("models") == 0
    heading, row = capsys.readouterr().out.splitlines()
    assert heading.split()[:4] == ["id", "task", "size", "state"]
    assert row.split() == "tiny embedding 91 MB ready - - - 0 - no".split()


def test_models_without_a_server_shows_the_catalogue(
    nobody: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("models", "--json") == 0
    output = capsys.readouterr()
    states = {model["id"]: model["available"] for model in json.loads(output.out)}
    assert states["all-MiniLM-L6-v2"]
    assert not states["prime-7b-chat-v1"]
    assert "no server runs" in output.err


def test_models_of_a_named_server_that_is_away_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("IRONCLIW_CLIENT__BASE_URL", "http://127.0.0.1:1")
    assert run("models") == console.EXIT_NOT_RUNNING
    assert capsys.readouterr().out == ""


def test_load_and_unload(local: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("models", "load", "tiny", "--pin", "--ttl", "2") == 0
    assert capsys.readouterr().out == "tiny is ready\n"
    assert local.received[0].body == {"pin": True, "ttl_seconds": 2.0, "stream": True}
    assert run("models", "unload", "tiny", "--force", "--json") == 0
    assert json.loads(capsys.readouterr().out)["state"] == "absent"


def test_embed_short_form(local: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("embed", "ab", "abc", "--dimensions", "5") == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.split() == "2.0000 2.0000 2.0000 2.0000 ... 5 numbers, norm 4.4721 ab".split()
    assert second.endswith("abc")


def test_embed_a_file_in_batches(local: Any, tmp_path: Path) -> None:
    texts = [f"text {number}" for number in range(600)]
    (tmp_path / "in.txt").write_text("\n".join(texts) + "\n")
    assert run("embed", "--file", "in.txt", "--out", "out.jsonl") == 0
    assert [len(request.body["input"]) for request in local.received] == [256, 256, 88]
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["text"] for row in rows] == texts
    assert rows[10]["embedding"] == [7.0, 7.0, 7.0]


def test_embed_standard_input(local: Any) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ironcliw.cli", "embed", "--file", "-", "--json"],
        cwd=ROOT,
        input=b"one\r\nthree\n",
        capture_output=True,
        check=True,
    )
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(row["text"], row["embedding"][0]) for row in rows] == [("one", 3.0), ("three", 5.0)]


def test_embed_says_what_was_cut(local: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("embed", "x" * 2000) == 0
    assert "1 texts were longer" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"good\n\xff\xfe\n", "in.txt:2: not UTF-8 at byte 0"),
        (b"good\n  \nmore\n", "in.txt:2: the line is empty"),
        (b"", "in.txt: no text in it"),
        (None, "in.txt: cannot be read"),
    ],
)
def test_a_bad_file_is_refused_before_any_work(
    local: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    content: bytes | None,
    message: str,
) -> None:
    if content is not None:
        (tmp_path / "in.txt").write_bytes(content)
    assert run("embed", "--file", "in.txt", "--out", "out.jsonl") == console.EXIT_BAD_REQUEST
    assert message in capsys.readouterr().err
    assert local.received == []
    assert not (tmp_path / "out.jsonl").exists()


def test_a_failure_half_way_leaves_no_half_file(local: Any, reply: Any, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("text\n" * 300)
    (tmp_path / "out.jsonl").write_text("of yesterday")
    refused = reply.error(400, "invalid_value")
    usual = local.answer
    local.answer = lambda request: usual(request) if not local.received else refused
    assert run("embed", "--file", "in.txt", "--out", "out.jsonl") == console.EXIT_BAD_REQUEST
    assert (tmp_path / "out.jsonl").read_text() == "of yesterday"
    assert list(tmp_path.glob("*.part")) == []


@pytest.mark.parametrize("words", [[], ["text", "--file", "in.txt"]])
def test_embed_needs_texts_or_a_file(words: list[str]) -> None:
    assert run("embed", *words) == console.EXIT_USAGE


def test_keys(capsys: pytest.CaptureFixture[str]) -> None:
    create = ("keys", "create", "app", "--scope", "infer", "--scope", "admin")
    assert run(*create, "--max-concurrency", "3") == 0
    secret = capsys.readouterr().out.strip()
    assert secret.startswith("icw-")
    assert run("keys", "list", "--json") == 0
    listed = capsys.readouterr().out
    (key,) = json.loads(listed)
    assert (key["name"], key["scopes"], key["max_concurrency"]) == ("app", ["admin", "infer"], 3)
    assert secret not in listed
    assert run("keys", "revoke", "app") == 0
    assert "is revoked" in capsys.readouterr().out
    assert run("keys", "list") == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:3] == [key["id"], "app", "admin"]


def test_a_second_key_of_one_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    create = ("keys", "create", "app", "--scope", "infer")
    assert run(*create) == 0
    assert run(*create) == console.EXIT_BAD_REQUEST
    assert "exists already" in capsys.readouterr().err


def test_ctrl_c_leaves_without_a_traceback(local: Any, reply: Any) -> None:
    usual = local.answer

    def slowly(request: Any) -> Any:
        usual(request)
        process.send_signal(signal.SIGINT)
        deadline = time.monotonic() + 30
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        return reply(drop=True)

    local.answer = slowly
    # a shell gives what it starts in the background an ignored SIGINT, which children inherit
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "ironcliw.cli", "embed", "text"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    finally:
        signal.signal(signal.SIGINT, before)
    _, errors = process.communicate(timeout=40)
    assert process.returncode == console.EXIT_INTERRUPTED
    assert "Traceback" not in errors
    assert len(local.received) == 1


def test_a_table_marks_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    console.write_table(("name", "count"), [("a", 1.25), (None, None), ("[b]", True)])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [["name", "count"], ["a", "1.2"], ["-", "-"], ["[b]", "yes"]]
