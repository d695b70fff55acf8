"""Time four first journeys from an empty environment: `make journeys`.

Each journey starts with a new virtual environment, into which pip installs this source with the
locked versions. The installation is done once and counted in each journey.

* demo: ten daemons of the Intel lab agree
* own: CSV files of one's own, one per room, become a model in outputs/answer.json of every node
* docker: the same kind of fleet, one container per node
* latency: what encryption costs on this machine, with a report; NOT VALID on a busy machine

`--only NAME` picks some, `--json` prints one object. The journey docker is skipped where no
container engine answers; with --engine, as root, an engine is started for it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec

ROOT = Path(__file__).parents[2]
ROOMS = 4
# By hand in this journey: the sensor of the nodes in the file that `init` wrote.
EDITED = ("{kind: synthetic, rows_per_round", '{kind: csv, path: "room{n}.csv"} #')
TRUTH = {"base": 420.0, "temperature_c": 15.0, "persons": 110.0}


@dataclass(frozen=True)
class Step:
    """A command, or something done by hand in the folder of the journey."""

    command: str
    by_hand: Callable[[Path], None] | None = None
    codes: tuple[int, ...] = (0,)


@dataclass(frozen=True)
class Journey:
    """The steps after the installation, and a check of what they made."""

    name: str
    steps: tuple[Step, ...]
    check: Callable[[Path], str] = field(default=lambda _folder: "")  # "" or what is wrong


class StepResult(msgspec.Struct, frozen=True, kw_only=True):
    """A step and its time."""

    command: str
    seconds: float
    exit_code: int


class JourneyResult(msgspec.Struct, frozen=True, kw_only=True):
    """A journey: its commands and its time, the installation included."""

    name: str
    outcome: Literal["passed", "failed", "skipped"]
    commands: int
    minutes: float
    steps: list[StepResult]
    note: str = ""


def write_readings(folder: Path) -> None:
    """Write room1.csv to room4.csv: CO2 by temperature and persons, with noise."""
    chance = random.Random(1)
    for room in range(1, ROOMS + 1):
        lines = ["temperature_c,persons,co2_ppm"]
        for _ in range(200):
            warmth, persons = chance.gauss(0.0, 2.0), chance.randrange(4)
            gas = TRUTH["base"] + TRUTH["temperature_c"] * warmth + TRUTH["persons"] * persons
            lines.append(f"{20 + warmth:.2f},{persons},{gas + chance.gauss(0.0, 20.0):.1f}")
        (folder / f"room{room}.csv").write_text("\n".join(lines) + "\n")


def use_own_files(folder: Path) -> None:
    """Name the files in fleet.yaml, and put them beside it."""
    file = folder / "rooms" / "fleet.yaml"
    text = file.read_text()
    if EDITED[0] not in text:
        raise ValueError("the template of init has another sensor: adapt EDITED")
    file.write_text(text.replace(*EDITED))
    for readings in folder.glob("room*.csv"):
        shutil.copy(readings, file.parent)


def fault_of_answers(folder: Path) -> str:
    """Every node must have an answer that is near the truth."""
    files = sorted(folder.glob("trial/nodes/*/outputs/answer.json"))
    if len(files) != ROOMS:
        return f"{len(files)} of {ROOMS} nodes have an answer.json"
    for file in files:
        named = json.loads(file.read_text())["model"]["coefficients"]
        for name in ("temperature_c", "persons"):
            if abs(named[name] / TRUTH[name] - 1.0) > 0.15:
                return f"{file.parent.parent.name}: the coefficient of {name} is far off"
    return ""


JOURNEYS = (
    Journey("demo", (Step("cipherfleet demo --out trial"),)),
    Journey(
        "own",
        (
            Step("cipherfleet init rooms --nodes 4 --sample room1.csv --target co2_ppm"),
            Step("edit the sensor in rooms/fleet.yaml", use_own_files),
            Step("cipherfleet check rooms/fleet.yaml"),
            Step("cipherfleet run rooms/fleet.yaml --out trial"),
            Step("cipherfleet-node answer trial/nodes/node1"),
        ),
        fault_of_answers,
    ),
    Journey(
        "docker",
        (
            Step("cipherfleet init boxes --nodes 4"),
            Step("cipherfleet fleet image --offline"),
            Step("cipherfleet fleet up boxes/fleet.yaml --rounds 20 --wait"),
        ),
    ),
    Journey(
        "latency",
        (
            Step("cipherfleet bench crypto --out here.json", codes=(0, 5)),
            Step("cipherfleet bench report here.json --out report.html", codes=(0, 5)),
        ),
        lambda folder: "" if (folder / "report.html").is_file() else "there is no report.html",
    ),
)


def main() -> int:
    """Run the command line."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    names = [journey.name for journey in JOURNEYS]
    options.add_argument("--only", action="append", choices=names, help="default: all")
    options.add_argument("--python", default=sys.executable, metavar="FILE")
    options.add_argument("--engine", action="store_true", help="start a container engine, as root")
    options.add_argument("--json", action="store_true", help="print one JSON object")
    given = options.parse_args()
    chosen = [each for each in JOURNEYS if each.name in (given.only or names)]
    with contextlib.ExitStack() as stack:
        place = stack.enter_context(
            tempfile.TemporaryDirectory(prefix="cipherfleet-journeys-", dir="/var/tmp")
        )
        if given.engine and any(each.name == "docker" for each in chosen):
            stack.enter_context(_engine())
        install = list(install_steps(Path(place), given.python))
        results = [travel(each, Path(place), install) for each in chosen]
    if given.json:
        print(msgspec.json.encode(results).decode())
    else:
        print(table(results))
    return int(any(result.outcome == "failed" for result in results))


@contextlib.contextmanager
def _engine() -> Iterator[None]:
    from tests.support.docker_engine import running_engine

    with running_engine():  # it sets DOCKER_HOST
        yield


def install_steps(place: Path, python: str) -> Iterator[StepResult]:
    """Make the environment; raises SystemExit if it cannot be made."""
    wanted = f"{ROOT}[operator]"
    for words in (
        [python, "-m", "venv", str(place / "venv")],
        [str(place / "venv/bin/pip"), "install", "-q", "-c", str(ROOT / "constraints.txt"), wanted],
    ):
        result, error = run(words, " ".join([Path(words[0]).name, *words[1:]]), place, place)
        if result.exit_code:
            sys.exit(f"{result.command}: {error}")
        yield result


def travel(journey: Journey, place: Path, install: list[StepResult]) -> JourneyResult:
    """Take all steps of *journey* until one fails."""
    folder = place / journey.name
    folder.mkdir()
    write_readings(folder)
    steps, note = list(install), ""
    if journey.name == "docker" and not has_engine(place, folder):
        return result_of(journey, "skipped", steps, "no container engine answers")
    for step in journey.steps:
        if step.by_hand is not None:
            step.by_hand(folder)
            continue
        result, error = run(step.command.split(), step.command, place, folder)
        steps.append(result)
        if result.exit_code not in step.codes:
            return result_of(journey, "failed", steps, f"{step.command}: {error}")
        if result.exit_code:
            note = f"{step.command}: exit code {result.exit_code}"
    fault = journey.check(folder)
    return result_of(journey, "failed" if fault else "passed", steps, fault or note)


def has_engine(place: Path, folder: Path) -> bool:
    """Whether a container engine answers, as `fleet status` says."""
    file = ROOT / "examples" / "average" / "fleet.yaml"
    words = ["cipherfleet", "fleet", "status", str(file), "--json"]
    return run(words, "", place, folder)[0].exit_code != 4


def result_of(
    journey: Journey,
    outcome: Literal["passed", "failed", "skipped"],
    steps: list[StepResult],
    note: str,
) -> JourneyResult:
    """The result of a journey that took *steps*."""
    return JourneyResult(
        name=journey.name,
        outcome=outcome,
        commands=len(steps),
        minutes=round(sum(step.seconds for step in steps) / 60, 2),
        steps=steps,
        note=note,
    )


def run(words: list[str], shown: str, place: Path, folder: Path) -> tuple[StepResult, str]:
    """Run a command with the programs of the environment; its result and its last words."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    began = time.monotonic()
    done = subprocess.run(
        words,
        cwd=folder,
        env={**clean, "PATH": f"{place / 'venv/bin'}:{clean.get('PATH', '')}"},
        capture_output=True,
        text=True,
        check=False,
    )
    if shown:
        print(f"{time.monotonic() - began:8.1f} s  {shown}", file=sys.stderr, flush=True)
    last = (done.stderr or done.stdout).strip().splitlines()[-1:] or [""]
    seconds = round(time.monotonic() - began, 1)
    return StepResult(command=shown, seconds=seconds, exit_code=done.returncode), last[0]


def table(results: list[JourneyResult]) -> str:
    """The results for people."""
    lines = ["journey   outcome   commands   minutes   of which installation"]
    for each in results:
        install = sum(step.seconds for step in each.steps[:2]) / 60
        numbers = f"{each.commands:>8}{each.minutes:>10.1f}{install:>10.1f}"
        lines.append(f"{each.name:<10}{each.outcome:<10}{numbers}   {each.note}".rstrip())
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
