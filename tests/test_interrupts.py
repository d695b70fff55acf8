"""Ctrl-C and SIGTERM, at moments that are chosen and not waited for."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cipherfleet_broker.interrupts import defer_interrupts

# Programs that send themselves signals: the moment is exact.
HEAD = "import signal, sys\nfrom cipherfleet_deploy.interrupts import *\n"
PRESS = "signal.raise_signal(signal.SIGINT)"


def ended(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", HEAD + program], capture_output=True, text=True, check=False
    )


def test_ctrl_c_while_the_command_is_imported_is_one_line(tmp_path: Path) -> None:
    """click is what is imported first: this one is interrupted."""
    (tmp_path / "click.py").write_text(f"import signal\n{PRESS}\n")
    program = (
        f"sys.path.insert(0, {str(tmp_path)!r})\nfrom cipherfleet_deploy.__main__ import main\n"
        "main()\n"
    )
    told = ended(program)
    assert (told.returncode, told.stdout) == (130, "")
    assert told.stderr == "cipherfleet: interrupted\n"


def test_an_import_that_fails_since_it_was_interrupted_is_an_interrupt(tmp_path: Path) -> None:
    """As modules in C do: they raise an error of their own, and not what was raised in them."""
    (tmp_path / "click.py").write_text(
        f"import signal\ntry:\n    {PRESS}\nexcept BaseException:\n    pass\n"
        "raise ImportError('multiarray failed to import')\n"
    )
    program = (
        f"sys.path.insert(0, {str(tmp_path)!r})\nfrom cipherfleet_deploy.__main__ import main\n"
        "main()\n"
    )
    told = ended(program)
    assert (told.returncode, told.stderr) == (130, "cipherfleet: interrupted\n")


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
    told = ended(program)
    assert told.stdout == "cleaned up\n"
    assert told.stderr.endswith("KeyboardInterrupt\n")


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
    told = ended(program)
    assert (told.stdout, told.stderr) == ("raised\n", "")


def test_other_errors_in_a_destructor_are_told_as_ever() -> None:
    program = """
class Closed:
    def __del__(self):
        raise ValueError
listen()
Closed()
"""
    assert "Exception ignored in: <function Closed.__del__" in ended(program).stderr


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
