"""Ctrl-C and SIGTERM at chosen moments."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from cipherfleet_broker.interrupts import defer_interrupts
from tests.tools.interrupts import FLEET, Moment, press, until

# Programs that send themselves signals: the moment is exact.
HEAD = "import signal, sys\nfrom cipherfleet_deploy.interrupts import *\n"
PRESS = "signal.raise_signal(signal.SIGINT)"


def ended(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", HEAD + program], capture_output=True, text=True, check=False
    )


def with_click(source: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """The command with another module click, which is what it imports first."""
    (folder / "click.py").write_text(f"import signal\n{source}\n")
    return subprocess.run(
        [sys.executable, "-m", "cipherfleet_deploy"],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("line", [PRESS, f"exec({PRESS!r})"], ids=["import", "exec"])
def test_ctrl_c_while_the_command_is_imported_is_one_line(line: str, tmp_path: Path) -> None:
    """By exec, too, which makes dataclasses."""
    result = with_click(line, tmp_path)
    assert (result.returncode, result.stdout) == (130, "")
    assert result.stderr == "cipherfleet: interrupted\n"


def test_an_import_that_fails_since_it_was_interrupted_is_an_interrupt(tmp_path: Path) -> None:
    """As modules in C do: they raise an error of their own, and not what was raised in them."""
    lost = f"try:\n    {PRESS}\nexcept BaseException:\n    pass\n"
    result = with_click(lost + "raise ImportError('multiarray failed to import')", tmp_path)
    assert (result.returncode, result.stderr) == (130, "cipherfleet: interrupted\n")


def test_a_second_ctrl_c_does_not_disturb_the_clean_up() -> None:
    program = f"""
listen()
try:
    {PRESS}
finally:
    {PRESS}
    try:
        raise ValueError
    except ValueError:
        {PRESS}
    print("cleaned up")
"""
    done = ended(program)
    assert done.stdout == "cleaned up\n"
    assert done.stderr.endswith("Interrupted\n")


def test_ctrl_c_counts_again_after_one_that_was_lost() -> None:
    program = f"""
listen()
try:
    {PRESS}
except BaseException:
    pass
try:
    {PRESS}
except KeyboardInterrupt:
    print("again", is_interrupted())
"""
    assert ended(program).stdout == "again True\n"


def test_ctrl_c_in_a_destructor_is_not_lost_and_prints_nothing() -> None:
    program = f"""
import time
class Closed:
    def __del__(self):
        {PRESS}
listen()
try:
    Closed()
    time.sleep(20)
except KeyboardInterrupt:
    print("raised")
"""
    done = ended(program)
    assert (done.stdout, done.stderr) == ("raised\n", "")


def test_other_errors_in_a_destructor_are_printed_as_usual() -> None:
    program = """
class Closed:
    def __del__(self):
        raise ValueError
listen()
Closed()
"""
    # Python 3.14 words it in another way than the versions before.
    assert re.search(r"Exception ignored .*<function Closed.__del__", ended(program).stderr)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_deferred_interrupt_comes_at_the_end_of_the_block(number: signal.Signals) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    @defer_interrupts()
    def work() -> None:
        signal.raise_signal(number)
        done.append("all of it")

    done: list[str] = []
    before = signal.signal(number, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            work()
        assert done == ["all of it"]
        assert signal.getsignal(number) is interrupt
    finally:
        signal.signal(number, before)


# -- the commands themselves; tests/tools/interrupts.py has more moments --------------------------


def child_of(name: str, count: int = 1) -> Moment:
    """As soon as *count* processes of this name run below the command."""

    def wait(process: subprocess.Popen[str]) -> None:
        parent = psutil.Process(process.pid)
        until(
            lambda: (
                sum(name in " ".join(words_of(each)) for each in list_descendants(parent)) >= count
            ),
            process,
        )

    return wait


def list_descendants(parent: psutil.Process) -> list[psutil.Process]:
    try:
        found: list[psutil.Process] = parent.children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    return found


def words_of(process: psutil.Process) -> list[str]:
    try:
        words: list[str] = process.cmdline()
    except psutil.Error:  # it has ended
        return []
    return words


def at_once(_process: subprocess.Popen[str]) -> None:
    """The command has just begun, and imports the rest."""


@pytest.mark.fleet
@pytest.mark.parametrize(
    ("words", "moment"),
    [
        (["run", "fleet.yaml"], at_once),
        (["run", "fleet.yaml"], child_of("nats-server")),
        (["run", "fleet.yaml", "--key-bits", "2048"], child_of("prime_worker")),
        (["run", "fleet.yaml"], child_of("node_launcher", 2)),
        (["demo"], child_of("prime_worker")),
        (["bench", "crypto"], child_of("cipherfleet_hil.measuring.worker")),
    ],
    ids=["run: import", "run: broker", "run: keys", "run: nodes", "demo: keys", "bench: worker"],
)
def test_ctrl_c_twice_leaves_nothing_but_one_line(
    words: list[str], moment: Moment, tmp_path: Path
) -> None:
    (tmp_path / "fleet.yaml").write_text(FLEET.format(token="", rounds=1_000_000))
    pressed = press(words, tmp_path, moment, again=True)
    assert pressed.faults == [], pressed.stderr
    assert not (tmp_path / "cipherfleet-out").exists() or not any(
        (tmp_path / "cipherfleet-out").iterdir()
    )
