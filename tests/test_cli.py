from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from feedfast.cli import console, main


def run_cli(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "feedfast.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)


def test_help_lists_every_command_and_loads_nothing_heavy() -> None:
    code = (
        "import sys, feedfast.cli.main as m\n"
        "try: m.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print([p for p in ('tensorflow', 'pyarrow', 'matplotlib') if p in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for command in main.COMMANDS:
        assert command in done.stdout
    assert done.stdout.strip().endswith("[]")


@pytest.mark.parametrize("command", main.COMMANDS)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main.main([command, "--help"])
    assert stop.value.code == 0
    assert "--json" in capsys.readouterr().out


def test_bench_prints_rows_as_json_only(tmp_path: Path) -> None:
    folder = tmp_path / "benchmarks" / "workloads"
    folder.mkdir(parents=True)
    (folder / "toy.py").write_text(
        "from feedfast.bench import row\n"
        "def run(options):\n"
        "    yield row('toy', 1.0, 'us', peer='p', peer_value=2.0, target=0.5)\n"
    )
    done = run_cli("bench", "toy", "--json", cwd=tmp_path)
    assert json.loads(done.stdout) == [
        {
            "name": "toy",
            "value": 1.0,
            "unit": "us",
            "peer": "p",
            "peer_value": 2.0,
            "ratio": 0.5,
            "target": 0.5,
            "met": True,
        }
    ]


def test_bad_input_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    done = run_cli("bench", "toy", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("feedfast bench: no benchmarks/workloads folder in ")
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (True, "yes"),
        (1234567, "1,234,567"),
        (0.00012345678, "0.00012346"),
        (123456.7, "123,457"),
        ("a", "a"),
    ],
)
def test_numbers_read_well(value: object, text: str) -> None:
    assert console.format_number(value) == text


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 << 20, "5.0 MiB"), (3 << 30, "3.0 GiB")],
)
def test_bytes_read_well(num_bytes: int, text: str) -> None:
    assert console.format_bytes(num_bytes) == text


def test_tables_are_plain_text_without_rich(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "HAVE_RICH", False)
    console.Console(as_json=False).table("t", ["name", "n"], [["a", 10], ["bcd", 2]])
    assert capsys.readouterr().out == "t\n  name   n\n  a     10\n  bcd    2\n"


def test_plain_progress_prints_each_line_once(capsys: pytest.CaptureFixture[str]) -> None:
    with console.Console(as_json=True).progress("work") as progress:
        progress.update(0, None, "starts")
        progress.update(1, 2)
        progress.update(2, 2, "done")
    captured = capsys.readouterr()
    assert captured.err.splitlines() == ["work: starts", "work: 2 of 2  done"]
    assert captured.out == ""


@pytest.mark.parametrize("command", list(main.COMMANDS))
def test_help_tells_defaults_that_say_something(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main.main([command, "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for nothing in ("(default: None)", "(default: False)", "(default: [])"):
        assert nothing not in text
    assert command != "simulate" or "(default: 20000)" in text
