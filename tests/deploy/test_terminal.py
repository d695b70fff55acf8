"""What commands print on narrow and wide terminals, without colours, and in other encodings."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from rich.console import Console, Group

from cipherfleet_deploy.column_widths import columns_that_fit, split_columns
from cipherfleet_deploy.local.results import Percentiles, RunResult
from cipherfleet_deploy.local.run import show_result
from cipherfleet_deploy.watch.table import COLUMNS, headline, table
from tests.support.page_recording import recording
from tests.support.paths import ROOT
from tests.tools.record_demo import draw, record, thin, write_cast

NAMES = [f"mote{k:02}" for k in range(16)]
PROGRAM = [sys.executable, "-m", "cipherfleet_deploy"]
COLOUR = re.compile(r"\x1b\[[0-9;]*[34][0-9][0-9;]*m")
YARD = """\
config_version: 1
fleet: yard
crypto: {key_bits: 512, allow_weak_keys: true}
algorithm: {rounds: 4}
objective: {kind: average, values: [{field: t}]}
topology: {kind: ring}
nodes:
  - {each: 3, id: "n{n}", sensor: {kind: csv, path: t.csv, where: {room: "{n}"}}}
"""
RESULT = RunResult(
    fleet="intel-lab", nodes=10, edges=25, rounds=250, key_bits=2048, exchange="sealed",
    method="exact", dimension=4, estimate=[-0.126311, 1.5e-12, 123456.7, -0.2365],
    optimum=[-0.126311, 1.5e-12, 123456.7, -0.2365], weight="node", relative_error=3.03e-7,
    disagreement=2.01e-8, movement=1e-6, settled=True,
    rounds_to={"1e-2": 81, "1e-3": 118, "1e-4": 156, "1e-6": 231},
    round_ms=Percentiles(275.02, 1374.24), bytes_per_edge_round=1609.0, silent=0, rejected=0,
    restarts=0, wall_s=76.3, weak_keys=False, out="/tmp/out",
)  # fmt: skip


def printed(width: int, *parts: object) -> list[str]:
    file = io.StringIO()
    console = Console(file=file, width=width, force_terminal=True, color_system=None)
    for part in parts:
        if isinstance(part, RunResult):
            show_result(part, console)
        else:
            console.print(part)
    return file.getvalue().splitlines()


def watch_table(width: int) -> Group:
    rows = list(recording(NAMES, 50))[-1].nodes
    return table(headline("intel-lab", rows, connected=True), rows, width)


def assert_whole(lines: list[str], width: int) -> None:
    assert "…" not in "".join(lines), "a text was cut"
    assert max(map(len, lines)) <= width


@pytest.mark.parametrize("width", [60, 80, 200])
def test_the_tables_of_a_run_are_whole(width: int) -> None:
    lines = printed(width, RESULT)
    assert_whole(lines, width)
    for text in ("relative_error stays below", "estimate (mean over nodes)", "275.02 / 1374.24"):
        assert text in "\n".join(lines)


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_the_table_of_watch_shows_whole_columns_and_names_the_others(width: int) -> None:
    lines = printed(width, watch_table(width))
    text = "\n".join(lines)
    assert_whole(lines, width)
    assert all(name in text for name in NAMES)
    assert "ready, unanswered" in text, "what needs attention has room at any width"
    left_out = set(COLUMNS) if "no room for: " in text else set()
    note = text.partition("no room for: ")[2].replace("\n", " ").split(", ")
    assert left_out >= {name.strip() for name in note if name.strip()}
    assert ("no room for" in text) == (width < 100)


def test_columns_are_left_out_one_by_one_until_the_others_fit() -> None:
    columns = {"node": ["n1"], "state": ["ready"], "°C": ["45"], "epoch": ["1234567"]}
    kept = [columns_that_fit(columns, ("epoch", "°C"), width, 2) for width in (26, 22, 16, 10)]
    assert kept == [
        ["node", "state", "°C", "epoch"],
        ["node", "state", "°C"],
        ["node", "state", "°C"],
        ["node", "state"],
    ]
    assert split_columns("abcde", 10, 5, 21) == ["ab", "cd", "e"]
    assert split_columns("ab", 10, 50, 21) == ["a", "b"], "one column is shown in any case"


def yard(folder: Path) -> Path:
    (folder / "t.csv").write_text("room,t\n1,20.5\n2,21.5\n3,19.5\n")
    file = folder / "fleet.yaml"
    file.write_text(YARD)
    return file


def on_a_terminal(command: list[str], width: int, more: Mapping[str, str]) -> tuple[int, str]:
    """The exit code of *command*, and everything it prints on a terminal of *width* characters."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(width), "LINES": "30", "TERM": "xterm", **more}
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    ) as process:
        os.close(theirs)
        data = b""
        while True:
            try:
                found = os.read(ours, 65536)
            except OSError:  # the program has closed its terminal
                break
            data += found
    os.close(ours)
    return process.returncode, data.decode("utf-8", "replace")


@pytest.mark.fleet
def test_a_run_on_a_narrow_terminal_without_colours_in_the_locale_c(tmp_path: Path) -> None:
    command = [*PROGRAM, "run", str(yard(tmp_path)), "--out", str(tmp_path / "out")]
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    code, text = on_a_terminal(command, 60, {"NO_COLOR": "1", **ascii_only})
    assert code == 0, text
    assert "round 4/4" in text
    assert "the common answer" in text or "NOT SETTLED" in text
    assert not COLOUR.search(text)
    assert text.isascii()


def test_a_pipe_gets_no_control_characters_and_ascii_suffices() -> None:
    code = (
        "from cipherfleet_deploy.cli.main import _replace_what_cannot_be_shown as replace\n"
        "from rich.console import Console\n"
        "from tests.deploy.test_terminal import RESULT, show_result, watch_table\n"
        "replace(); console = Console(); show_result(RESULT, console)\n"
        "console.print(watch_table(console.width))"
    )
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "COLUMNS": "100"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, env=environment, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    text = done.stdout.decode("ascii")
    assert "relative_error" in text
    assert "?C" in text, "a question mark stands for the degree sign"
    assert "\x1b" not in text


def test_a_recording_of_a_terminal_holds_the_output_and_refers_to_nothing(tmp_path: Path) -> None:
    code = "import sys; print('\\x1b[1mfound\\x1b[0m 1'); print('busy', file=sys.stderr)"
    events, output = record([sys.executable, "-c", code])
    write_cast(tmp_path / "x.cast", events, "x")
    head, *lines = map(json.loads, (tmp_path / "x.cast").read_text().splitlines())
    assert (head["version"], head["width"]) == (2, 90)
    assert "busy" in "".join(text for _, _, text in lines)
    bar = "\r\x1b[2Kbar"
    times = [(0.0, bar), (0.1, bar), (0.2, "line\n"), (0.3, bar + "\n"), (0.6, bar)]
    assert [at for at, _ in thin(times)] == [0.0, 0.2, 0.3, 0.6]
    picture = draw(output, "a title")
    assert "found" in picture
    assert "busy" not in picture
    assert "http" not in picture.replace('xmlns="http://www.w3.org/2000/svg"', "")
