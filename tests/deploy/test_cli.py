"""The command `cipherfleet` as an operator uses it."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import msgspec
import psutil
import pytest

from cipherfleet_deploy.cli import main as cli
from cipherfleet_deploy.data_folders import example_folder
from tests.support.command_line import run_here

COMMAND = [sys.executable, "-m", "cipherfleet_deploy"]
FLEET = """\
config_version: 1
fleet: toy
crypto: {{key_bits: 512, allow_weak_keys: true}}
algorithm: {{rounds: {rounds}}}
objective: {{kind: average, values: [{{field: t}}]}}
topology: {{kind: ring}}
nodes:
  - {{each: 3, id: "{{n:02}}", sensor: {{kind: csv, path: t.csv, where: {{room: "{{n}}"}}}}}}
"""
KEYS_OF_THE_RESULT = {
    "nodes", "edges", "rounds", "key_bits", "exchange", "dimension", "estimate", "optimum",
    "weight", "relative_error", "disagreement", "round_ms", "bytes_per_edge_round", "silent",
    "rejected", "wall_s", "movement", "settled", "rounds_to", "ended", "reason",
}  # fmt: skip


def toy_fleet(folder: Path, rounds: int = 4) -> Path:
    (folder / "t.csv").write_text("room,t\n1,20\n2,21\n3,22\n")
    file = folder / "fleet.yaml"
    file.write_text(FLEET.format(rounds=rounds))
    return file


def ended(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        capture_output=True, text=True, timeout=120, check=False, cwd=cwd,
    )  # fmt: skip


# -- help ----------------------------------------------------------------------------------------


def words_of(command: click.Command, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield words
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from words_of(below, (*words, name))


@pytest.mark.parametrize(
    "command", sorted(words_of(cli.cli)), ids=lambda words: " ".join(words) or "cipherfleet"
)
def test_the_help_of_every_command_has_an_example(command: tuple[str, ...]) -> None:
    done = run_here(*command, "--help")
    assert done.returncode == 0
    assert done.stderr == ""
    example = re.search(r"Example:\n +(cipherfleet .*)\n", done.stdout)
    assert example is not None
    assert example[1].startswith(" ".join(["cipherfleet", *command]))


@pytest.mark.parametrize(
    "arguments", [["--help"], ["run", "--help"], ["run", "no-such-file", "--nodes", "1"]]
)
def test_help_and_mistakes_wait_for_no_heavy_import(arguments: list[str]) -> None:
    command = [sys.executable, "-X", "importtime", *COMMAND[1:], *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "click" in imported
    assert not imported & {"numpy", "matplotlib", "rich", "gmpy2", "yaml", "paho"}


@pytest.mark.parametrize(
    "words", sorted(words_of(cli.cli)), ids=lambda words: " ".join(words) or "cipherfleet"
)
def test_the_first_sentence_of_every_help_is_never_cut(words: tuple[str, ...]) -> None:
    command: click.Command = cli.cli
    for word in words:
        assert isinstance(command, click.Group)
        below = command.get_command(click.Context(command), word)
        assert below is not None
        command = below
    sentence = (command.help or "").split("\n\n")[0]
    assert len(sentence) <= 45
    assert sentence.endswith(".")
    assert not command.get_short_help_str(45).endswith("...")


def test_the_command_alone_shows_its_help() -> None:
    done = ended()
    assert done.returncode == 0
    assert "Commands:" in done.stdout


def test_the_version_is_printed() -> None:
    assert re.fullmatch(r"cipherfleet, version \d+\.\d+\.\d+\S*\n", ended("--version").stdout)


@pytest.mark.parametrize("arguments", [["--colour"], ["run", "--colour", "x"], ["walk"], ["run"]])
def test_a_command_line_that_cannot_be_understood_is_exit_code_2(arguments: list[str]) -> None:
    done = run_here(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert re.fullmatch(r"cipherfleet: .*; see cipherfleet.* --help\n", done.stderr)


@pytest.mark.parametrize(
    ("typed", "suggested"),
    [("atack", "attack"), ("benhc", "bench"), ("simulat", "simulate"), ("wacth", "watch")],
)
def test_a_misspelt_command_is_answered_with_the_nearest_of_all(typed: str, suggested: str) -> None:
    done = run_here(typed)
    assert done.returncode == 2
    expected = f"no such command {typed!r}, did you mean {suggested!r}; see cipherfleet --help\n"
    assert done.stderr == f"cipherfleet: {expected}"


def test_what_compose_suggests_is_quoted_for_a_shell(tmp_path: Path) -> None:
    done = ended("fleet", "compose", toy_fleet(tmp_path), "--out", "my out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    suggested = shlex.split(done.stdout.partition(": ")[2])
    assert suggested == [*["docker", "compose", "-f"], "my out/compose.yaml", "up", "--detach"]


def test_a_dimension_of_hundreds_does_not_fill_the_terminal() -> None:
    from rich.console import Console

    from cipherfleet_deploy.local.results import Percentiles, RunResult
    from cipherfleet_deploy.local.run import show_result

    def shown(result: RunResult) -> str:
        console = Console(file=io.StringIO(), width=80)
        show_result(result, console)
        assert isinstance(console.file, io.StringIO)
        return console.file.getvalue()

    result = RunResult(
        fleet="toy", nodes=3, edges=3, rounds=4, key_bits=2048, exchange="sealed", method="exact",
        dimension=500,
        estimate=[1.25] * 500, optimum=None, weight="reading", relative_error=0.5,
        disagreement=0.5, movement=0.5, settled=True, rounds_to={},
        round_ms=Percentiles(1.0, 2.0), bytes_per_edge_round=100.0,
        silent=0, rejected=0, restarts=0, wall_s=0.5, weak_keys=False, out="my out",
    )  # fmt: skip
    text = shown(result)
    assert text.count("1.25") == 20
    assert "every reading counts" in text
    assert "480 more entries: my out/result.json\n" in text
    assert "silent: answers that did not arrive in time" in text
    assert "more entries" not in shown(msgspec.structs.replace(result, estimate=[1.25] * 20))


def test_the_examples_are_found_beside_the_source() -> None:
    for name in ("intel_lab", "average", "air", "rooms", "thermometers"):
        assert (example_folder(name) / "fleet.yaml").is_file()


def test_a_fault_of_ours_is_one_line_without_its_text(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from cipherfleet_deploy.local import run

    def fail(*_: Any) -> None:
        raise ZeroDivisionError("the reading 21.5")

    monkeypatch.setattr(run, "run_fleet", fail)
    monkeypatch.setattr(sys, "argv", ["cipherfleet", "run", str(tmp_path)])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert exit_.value.code == 1
    err = capsys.readouterr().err
    assert re.fullmatch(r"cipherfleet: internal error, ZeroDivisionError at test_cli.py:.*\n", err)
    assert "21.5" not in err


# -- a real run ----------------------------------------------------------------------------------


@pytest.mark.fleet
def test_a_run_prints_one_json_object_and_leaves_a_folder(tmp_path: Path) -> None:
    done = ended("run", toy_fleet(tmp_path), "--json", "--out", tmp_path / "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1
    result = json.loads(done.stdout, parse_constant=pytest.fail)
    assert result.keys() >= KEYS_OF_THE_RESULT
    assert (result["nodes"], result["edges"], result["rounds"]) == (3, 3, 4)
    assert (result["key_bits"], result["dimension"]) == (512, 1)
    assert result["optimum"] == [21.0]
    assert result["estimate"] == pytest.approx([21.0], abs=1e-5)
    assert 0 < result["relative_error"] < 0.01
    assert result["settled"] is True
    assert result["rounds_to"].keys() == {"1e-2", "1e-3", "1e-4", "1e-6"}
    assert 1 <= result["rounds_to"]["1e-2"] <= 4
    assert (result["ended"], result["reason"]) == ("complete", None)
    assert "not settled" not in done.stderr
    assert result["bytes_per_edge_round"] > 100
    assert (result["silent"], result["rejected"], result["restarts"]) == (0, 0, 0)
    assert 0 < result["round_ms"]["p50"] <= result["round_ms"]["p95"]
    out = tmp_path / "out"
    assert sorted(p.name for p in out.iterdir()) == ["nodes", "plot.png", "result.json"]
    assert json.loads((out / "result.json").read_text()) == result
    assert sorted(p.name for p in (out / "nodes").iterdir()) == ["01", "02", "03"]
    log = (out / "nodes" / "01" / "logs" / "node.log").read_text()
    assert "simulation.trace_estimates is on: the estimate of every round is written to" in log
    assert "SIMULATION SETTINGS ARE ON" not in log  # no randomness is repeatable
    assert "Traceback" not in done.stderr
    # What is kept is refused the next time, and not touched.
    kept = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    again = ended("run", tmp_path / "fleet.yaml", "--out", out, cwd=tmp_path)
    assert again.returncode == 3
    assert again.stderr == (
        f"cipherfleet: {out}: holds an earlier run and its result.json; name another folder with "
        f"--out, or remove this one: rm -r {out}\n"
    )
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*")} == kept


@pytest.mark.fleet
def test_a_run_without_json_is_for_people(tmp_path: Path) -> None:
    file = toy_fleet(tmp_path)
    (tmp_path / "t.csv").write_text("room,t\n1,20\n2,90\n3,22\n")
    done = ended("run", file, "--nodes", 2, "--rounds", 1, "--seed", 1, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "2 nodes, 1 edges" in " ".join(done.stdout.split())
    assert "centralised answer" in done.stdout
    assert "WEAK KEYS" in done.stderr
    # Without a terminal, phases are printed as lines. A run that has not settled is called so.
    for line in ("starting the broker", "keys: 0 of 2", "starting 2 nodes", "round 0/1"):
        assert f"\n{line}\n" in done.stderr
    assert "\nwarn: not settled after 1 round: relative error " in done.stderr
    assert "NOT SETTLED after 1 round" in " ".join(done.stdout.split())
    assert "the common answer" not in done.stdout
    (run,) = (tmp_path / "cipherfleet-out").iterdir()
    assert run.name.startswith("toy-")


@contextmanager
def running(folder: Path) -> Iterator[tuple[subprocess.Popen[str], list[psutil.Process]]]:
    """A long run whose nodes compute, and all processes below it."""
    command = [*COMMAND, "run", str(toy_fleet(folder, 100_000)), "--out", str(folder / "out")]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"TMPDIR": str(folder)},  # a killed run cannot remove its broker's folder
    )
    try:
        deadline = time.monotonic() + 120
        files = [folder / "out" / "nodes" / f"0{n}" / "logs" / "estimates.jsonl" for n in (1, 2, 3)]
        while not all(file.exists() and file.stat().st_size for file in files):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline, "no round was closed"
            time.sleep(0.05)
        below = psutil.Process(process.pid).children(recursive=True)
        assert len(below) >= 4, "three nodes and a broker"
        yield process, below
    finally:
        process.kill()
        process.communicate()


def left_of(processes: list[psutil.Process], within_s: float) -> list[psutil.Process]:
    _, alive = psutil.wait_procs(processes, timeout=within_s)
    return [p for p in alive if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.fleet
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_an_interrupted_run_is_exit_code_130_and_leaves_no_process(
    how: signal.Signals, tmp_path: Path
) -> None:
    with running(tmp_path) as (process, below):
        if how == signal.SIGINT:
            os.killpg(process.pid, how)  # as a terminal does: everybody in the foreground
        else:
            process.send_signal(how)
        out, err = process.communicate(timeout=120)
        assert process.returncode == 130
        assert left_of(below, 10.0) == []
    assert out == ""
    assert err.rstrip().splitlines()[-1] == "cipherfleet: interrupted"
    assert "Traceback" not in err
    # What came of it until then is there.
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert (result["ended"], result["reason"]) == ("interrupted", None)
    assert 1 <= result["rounds"] < 100_000
    assert result["estimate"][0] == pytest.approx(21.0, abs=1.5)
    assert (tmp_path / "out" / "plot.png").stat().st_size > 10_000
    assert f"figures of the rounds until then: {tmp_path / 'out'}\n" in err
    for node in ("01", "02", "03"):
        assert (
            "Traceback" not in (tmp_path / "out" / "nodes" / node / "logs" / "node.log").read_text()
        )


@pytest.mark.fleet
def test_a_killed_run_leaves_no_node_and_no_broker(tmp_path: Path) -> None:
    with running(tmp_path) as (process, below):
        process.kill()
        process.wait()
        assert left_of(below, 60.0) == []
    # What it left is not taken for something else, and not touched.
    out = tmp_path / "out"
    again = ended("run", tmp_path / "fleet.yaml", "--out", out, cwd=tmp_path)
    assert again.returncode == 3
    wanted = r".*/out: holds keys and logs of a run without a result\.json: it was killed after "
    assert re.match(
        rf"cipherfleet: {wanted}[1-9]\d* rounds?, or is still running; .*rm -r", again.stderr
    )
    assert sorted(path.name for path in out.iterdir()) == ["nodes"]


@pytest.mark.fleet
def test_a_node_that_fails_for_good_ends_the_run_with_its_figures(tmp_path: Path) -> None:
    with running(tmp_path) as (process, below):
        nodes = tmp_path / "out" / "nodes"
        (nodes / "02" / "readings.csv").unlink()
        (victim,) = [each for each in below if each.name() == "02"]
        victim.kill()  # started again, it has nothing to read
        out, err = process.communicate(timeout=60)
        assert process.returncode == 1
        assert left_of(below, 60.0) == []
    assert out == ""
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["ended"] == "failed"
    assert "node '02' ended with exit code 3" in result["reason"]
    assert err.rstrip().splitlines()[-1] == f"cipherfleet: {result['reason']}"
    assert result["rounds"] >= 1
    assert (tmp_path / "out" / "plot.png").is_file()


@pytest.mark.fleet
def test_a_run_that_is_interrupted_before_it_began_leaves_no_folder(tmp_path: Path) -> None:
    """SIGTERM while keys are made, which this many take minutes for."""
    file, out = toy_fleet(tmp_path), tmp_path / "out"
    file.write_text(file.read_text().replace("key_bits: 512", "key_bits: 4096"))
    command = [*COMMAND, "run", str(file), "--out", str(out)]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        while process.stderr.readline() != "keys: 0 of 3\n":
            assert process.poll() is None
        process.terminate()
        assert process.stderr.read().strip() == "cipherfleet: interrupted"
    assert process.returncode == 130
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fleet.yaml", "t.csv"]
