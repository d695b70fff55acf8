"""The lease on a target: one holder at a time, and a complete clean-up in every case."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from cipherfleet_hil.targets import lease_agent
from cipherfleet_hil.targets import target as targets
from cipherfleet_hil.targets.target import (
    LeasedTarget,
    LinkDropped,
    LocalLink,
    TargetFailed,
    TargetHeld,
    TargetUnreachable,
)


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The temporary folder of the target, which is this machine."""
    place = tmp_path / "tmp"
    place.mkdir()
    monkeypatch.setenv("TMPDIR", str(place))
    monkeypatch.setattr("tempfile.tempdir", str(place))
    return place


def local(lease_s: float = 60.0) -> LeasedTarget:
    return LeasedTarget("here", LocalLink(), lease_s=lease_s)


def marked_processes(target: LeasedTarget) -> list[int]:
    return lease_agent.marked_processes(target._nonce)


def wait_until(condition: Callable[[], bool], within_s: float = 120.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def abandon(target: LeasedTarget) -> None:
    """As if the harness were killed: the lease is neither renewed nor released."""
    target._ending.set()
    target._renewer.join()
    target._request("renew", seconds=1.0)  # until now it had time enough for a busy machine


def commanded(command: str, **result: Any) -> dict[str, Any]:
    """Run a command of the lease agent in its own process and return its answer."""
    argv = [sys.executable, "-I", "-S", lease_agent.__file__, command, json.dumps(result)]
    return dict(json.loads(subprocess.run(argv, capture_output=True, check=True).stdout))


def test_a_second_holder_is_refused_until_the_first_releases(place: Path) -> None:
    with local() as first:
        words = rf"held by .*process {os.getpid()} until \d\d:\d\d:\d\d UTC by its clock, \d+ s"
        with pytest.raises(TargetHeld, match=words) as refused:
            local().__enter__()
        assert refused.value.exit_code == 4
        assert first.run(["/bin/echo", "ours"], 30.0) == "ours\n"
    with local():
        pass
    assert list(place.iterdir()) == []


def test_only_one_of_many_takes_it_at_the_same_moment() -> None:
    source = Path(lease_agent.__file__).read_text()
    argv = [sys.executable, "-I", "-S", lease_agent.__file__, "take"]
    takers = [
        subprocess.Popen(
            [*argv, json.dumps({"nonce": n, "holder": n, "seconds": 30, "source": source})],
            stdout=subprocess.PIPE,
        )
        for n in map(str, range(8))
    ]
    answers = [json.loads(taker.communicate()[0]) for taker in takers]
    winners = [each["taken"]["nonce"] for each in answers if "taken" in each]
    assert len(winners) == 1
    assert {each["held"]["holder"] for each in answers if "held" in each} == set(winners)
    commanded("release", nonce=winners[0])


def test_release_ends_all_work_and_removes_everything(place: Path) -> None:
    with local() as target:
        target.start(["/bin/sleep", "600"])
        target.start(["/bin/sh", "-c", "trap '' TERM; sleep 600 & wait"])  # does not want to go
        target.start(["/bin/sh", "-c", "setsid sleep 600 & exit 0"])  # wants to be forgotten
        assert len(marked_processes(target)) >= 5
        assert target.folder.startswith(str(place))
    assert marked_processes(target) == []
    assert list(place.iterdir()) == []


def test_an_abandoned_lease_ends_by_itself_with_all_that_was_there(place: Path) -> None:
    target = local()
    target.__enter__()
    target.start(["/bin/sleep", "600"])
    abandon(target)
    wait_until(lambda: not marked_processes(target))
    wait_until(lambda: list(place.iterdir()) == [])
    with pytest.raises(TargetUnreachable, match="the lease has ended"):
        target.run(["/bin/true"], 10.0)


def test_a_lease_that_is_renewed_does_not_end() -> None:
    with local(lease_s=3.0) as target:  # renewed every second; a busy machine may miss one
        time.sleep(4.5)
        assert target.run(["/bin/echo", "still"], 30.0) == "still\n"


def test_an_expired_lease_whose_agent_was_killed_is_taken_over(place: Path) -> None:
    dead = local()
    dead.__enter__()
    dead.start(["/bin/sleep", "600"])
    abandon(dead)
    os.kill(dead.agent_pid, signal.SIGKILL)  # it cannot clean up
    left_behind = dead.folder
    wait_until(lambda: lease_agent.current_lease(dead._nonce) is None)
    assert Path(left_behind).exists()
    with local() as next_one:
        assert not Path(left_behind).exists()
        assert marked_processes(dead) == []
        assert next_one.run(["/bin/true"], 30.0) == ""
    assert list(place.iterdir()) == []


def test_a_lease_of_an_earlier_start_of_the_machine_is_none(place: Path) -> None:
    lease = {
        "holder": "x",
        "nonce": "n",
        "until": lease_agent.boot_clock() + 1e6,
        "boot": "earlier",
    }
    lease |= {"folder": str(place / "cipherfleet-bench-gone"), "pid": 0}
    (place / lease_agent.LEASE_FILE).write_text(json.dumps(lease))
    with local() as target:
        assert target.folder


def test_setting_the_clock_of_the_target_changes_no_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    with local() as target:
        monkeypatch.setattr(time, "time", lambda: 4e9)
        assert lease_agent.current_lease(target._nonce) is not None


def test_a_lease_file_that_is_a_link_is_not_followed(place: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (place / lease_agent.LEASE_FILE).symlink_to(victim)
    with pytest.raises(TargetFailed):
        local().__enter__()
    assert victim.read_text() == "mine"


def test_a_folder_that_is_not_ours_is_never_removed(place: Path, tmp_path: Path) -> None:
    """A user who can write the lease cannot make us remove other folders."""
    other = tmp_path / "precious"
    other.mkdir()
    lease = {"holder": "x", "nonce": "n", "until": 0.0, "boot": lease_agent.boot_id()}
    (place / lease_agent.LEASE_FILE).write_text(
        json.dumps({**lease, "folder": str(other), "pid": 0})
    )
    with local():
        assert other.is_dir()


def test_the_folder_is_where_there_is_space_unless_the_environment_sets_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert lease_agent.work_folder() is None
    monkeypatch.delenv("TMPDIR")
    assert lease_agent.work_folder() == "/var/tmp"


class Broken(LocalLink):
    """A link that breaks after every command that it carries: its answer never comes back."""

    def __init__(self) -> None:
        self.breaks = True

    def call(self, argv: Sequence[str], stdin: bytes, timeout_s: float) -> bytes:
        answer = super().call(argv, stdin, timeout_s)
        self.breaks = not self.breaks
        if not self.breaks:
            raise LinkDropped("cut")
        return answer


def test_commands_whose_answers_are_lost_are_repeated_and_done_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("content")
    with LeasedTarget("here", Broken()) as target:
        target.run(["/bin/sh", "-c", f"echo once >>{log}"], 30.0)
        target.put(tmp_path / "folder", "copied")
        target.get("copied/file", tmp_path / "back")
    assert log.read_text() == "once\n"
    assert (tmp_path / "back").read_text() == "content"


class Gone(LocalLink):
    """A link that is lost for good once it has been up."""

    def __init__(self) -> None:
        self.lost = False

    def call(self, argv: Sequence[str], stdin: bytes, timeout_s: float) -> bytes:
        if self.lost:
            raise LinkDropped("no route")
        return super().call(argv, stdin, timeout_s)


def test_a_target_that_stays_away_is_given_up_and_cleans_up(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(targets, "RECONNECT_WITHIN_S", 1.0)
    link = Gone()
    with LeasedTarget("pi", link, lease_s=4.0) as target:
        target.start(["/bin/sleep", "600"])
        link.lost = True
        with pytest.raises(TargetUnreachable, match="did not come back: no route"):
            target.run(["/bin/true"], 30.0)
    wait_until(lambda: not marked_processes(target))
    wait_until(lambda: list(place.iterdir()) == [])


def test_ended_children_of_the_lease_agent_count_as_own_load() -> None:
    with local() as target:
        target.run([sys.executable, "-c", "sum(range(3 * 10**7))"], 60.0)

        def of_children_s() -> float:
            fields = Path(f"/proc/{target.agent_pid}/stat").read_text().rpartition(")")[2].split()
            return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")

        wait_until(lambda: of_children_s() > 0.1)
