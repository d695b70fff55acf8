"""The saved state survives a power cut at any moment.

All of it is in one file: every test damages or interrupts the same few files of one store.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cipherfleet_node.core.state import STATE_VERSION, Known, RoundRecord, State, first_state
from cipherfleet_node.errors import ConfigError, IdentityClash, StateCorrupt, StateNotSaved
from cipherfleet_node.runtime import store as store_module
from cipherfleet_node.runtime import synced_files
from cipherfleet_node.runtime.store import Store, read_state


def state(k: int) -> State:
    draw, known = bytes(8), {"m": Known(b"identity", epoch=1, round=k)}
    records = [RoundRecord(k, draw, [k, -k], bytes([k] * 32), [bytes([k]) * 64])]
    made = first_state("f", "n", b"tag", 3, draw=k)
    rosters = {draw: {"m": bytes(16)}}
    changes = {"round": k, "estimate": [0.5 * k], "records": records, "neighbours": known}
    return msgspec.structs.replace(made, continuous=True, rosters=rosters, **changes)


@pytest.fixture
def store(tmp_path: Path) -> Any:
    made = Store(tmp_path)
    yield made
    made.close()


def test_nothing_saved_is_no_state(store: Store) -> None:
    assert store.load() is None


def test_the_latest_state_is_loaded_and_the_one_before_is_kept(store: Store) -> None:
    for k in range(4):
        store.save(state(k))
        assert store.load() == state(k)
    store.current.unlink()
    fallen_back = store.load()
    assert fallen_back is not None
    assert fallen_back.records == state(2).records


def test_a_new_process_finds_the_state(tmp_path: Path) -> None:
    first = Store(tmp_path)
    first.save(state(7))
    first.close()
    second = Store(tmp_path)
    assert second.load() == state(7)
    assert read_state(tmp_path) == state(7)
    second.close()


def test_state_files_are_for_their_owner_only(store: Store, tmp_path: Path) -> None:
    store.save(state(1))
    store.save(state(2))
    folder = tmp_path / "state"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for file in folder.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file.name


def test_state_files_are_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        made = Store(tmp_path)
        made.save(state(1))
        made.save(state(2))
        made.close()
    finally:
        os.umask(before)
    for file in (tmp_path / "state").iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file.name


def test_a_second_daemon_on_the_folder_is_an_identity_clash(store: Store, tmp_path: Path) -> None:
    store.save(state(1))
    with pytest.raises(IdentityClash, match="another daemon runs from this folder") as refused:
        Store(tmp_path)
    assert str(tmp_path) in str(refused.value)
    assert store.load() == state(1)


def test_the_folder_is_free_again_after_closing(tmp_path: Path) -> None:
    for _ in range(2):
        Store(tmp_path).close()


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file where the folder should be")
    with pytest.raises(ConfigError, match="cannot be written"):
        Store(tmp_path)


# -- losing power ---------------------------------------------------------------------------------


class PowerLossError(Exception):
    """The moment everything stops."""


STEPS: list[tuple[Any, str]] = [
    (os, "open"),
    (os, "fsync"),
    (os, "fdatasync"),
    (Path, "unlink"),
    (Path, "hardlink_to"),
    (Path, "replace"),
    (store_module, "sync_folder"),
]


def fail_at(patch: pytest.MonkeyPatch, moment: int, *, after: bool) -> Callable[[], int]:
    """Power fails before (or just after) the moment-th system call of the next save."""
    calls = 0
    for owner, name in STEPS:
        real = getattr(owner, name)

        def step(*args: Any, _real: Any = real, **keywords: Any) -> Any:
            nonlocal calls
            calls += 1
            mine = calls
            if mine == moment and not after:
                raise PowerLossError
            result = _real(*args, **keywords)
            if mine == moment:
                raise PowerLossError
            return result

        patch.setattr(owner, name, step)
    return lambda: calls


@pytest.mark.parametrize("saved_before", [0, 1, 2, 5])
@pytest.mark.parametrize("after", [False, True])
def test_a_crash_at_every_step_of_saving_leaves_a_whole_state(
    tmp_path: Path, saved_before: int, after: bool
) -> None:
    survived = 0
    for moment in range(1, 40):
        folder = tmp_path / str(moment)
        folder.mkdir()
        first = Store(folder)
        for k in range(saved_before):
            first.save(state(k))
        with pytest.MonkeyPatch.context() as patch:
            calls = fail_at(patch, moment, after=after)
            try:
                first.save(state(9))
            except PowerLossError:
                survived += 1
            else:
                assert calls() < moment
                break
        first.close()
        second = Store(folder)
        found = second.load()
        whole = [state(9)] if saved_before == 0 else [state(9), state(saved_before - 1)]
        assert found in whole or (found is None and saved_before == 0)
        second.save(state(10))
        assert second.load() == state(10)
        second.close()
    assert survived >= 5, "the save was never interrupted"


def test_a_crash_after_damage_keeps_the_generation_that_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The damaged file must not push the whole one out before the new one is in place."""
    for moment in range(1, 40):
        folder = tmp_path / str(moment)
        folder.mkdir()
        first = Store(folder)
        first.save(state(1))
        first.save(state(2))
        first.close()
        first.current.write_bytes(b"rubbish")
        second = Store(folder)
        with monkeypatch.context() as patch:
            fail_at(patch, moment, after=False)
            try:
                second.save(state(4))
            except PowerLossError:
                pass
            else:
                assert moment > 4
                return
            finally:
                second.close()
        found = read_state(folder)
        assert found is not None
        assert found.round in (3, 4)
    raise AssertionError("the save never came to its end")


def test_a_full_disk_keeps_the_state_that_is_there(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.save(state(1))

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", full)
        with pytest.raises(StateNotSaved, match="No space left on device; free disk space"):
            store.save(state(2))
    assert store.load() == state(1)
    store.save(state(3))
    assert store.load() == state(3)


def test_every_save_is_synced_before_it_is_renamed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []

    def recorded(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(first: Any, *others: Any) -> Any:
            order.append(f"{name} {first.name}" if isinstance(first, Path) else name)
            return real(first, *others)

        return call

    monkeypatch.setattr(os, "fdatasync", recorded("file", os.fdatasync))
    monkeypatch.setattr(os, "fsync", recorded("folder", os.fsync))
    monkeypatch.setattr(Path, "replace", recorded("rename", Path.replace))
    store.save(state(1))
    store.save(state(2))
    assert order[:3] == ["file", "rename fresh", "folder"]
    assert order[3:] == ["file", "rename linked", "rename fresh", "folder"]


@pytest.mark.parametrize("failed", [True, False])
def test_a_current_state_that_is_damaged_at_the_start_never_becomes_the_previous_one(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failed: bool
) -> None:
    store.save(state(1))
    store.save(state(2))
    store.current.write_bytes(b"rubbish")
    store.close()
    again = Store(tmp_path)
    if failed:
        with monkeypatch.context() as patch:
            fail_at(patch, 6, after=False)
            with pytest.raises(PowerLossError):
                again.save(state(4))
    again.save(state(5))
    again.current.unlink()
    found = again.load()
    assert found is not None
    assert found.records == state(1).records
    store._lock = os.dup(again._lock)  # the fixture closes it
    again.close()


class Disk:
    """What a loss of power may leave in the folder of a store, at any moment since `clear`.

    The names of the folder change in their order. A loss of power keeps the changes since the
    latest synchronisation up to any of them. A file that is being written is garbage.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.names: list[dict[str, int]] = [{}]  # since the latest synchronisation, oldest first
        self.contents: list[bytes] = []  # of the files that `names` refers to
        self.left: list[dict[str, bytes]] = []
        self.moments_left = 1000  # then the process is killed
        patch.setattr(store_module, "overwrite_synced", self.overwrite)
        patch.setattr(store_module, "sync_folder", self.sync)
        patch.setattr(os, "fdatasync", lambda _descriptor: None)
        unlink, replace, link = Path.unlink, Path.replace, Path.hardlink_to

        def unlinked(file: Path, missing_ok: bool = False) -> None:
            unlink(file, missing_ok=missing_ok)
            self.change({name: at for name, at in self.names[-1].items() if name != file.name})

        def replaced(file: Path, target: Path) -> None:
            replace(file, target)
            names = dict(self.names[-1])
            place = names.pop(file.name)
            if names.get(target.name) == place:
                return  # two names of one file: POSIX has rename do nothing
            self.change(names | {target.name: place})

        def linked(file: Path, target: Path) -> None:
            link(file, target)
            self.change(self.names[-1] | {file.name: self.names[-1][target.name]})

        patch.setattr(Path, "unlink", unlinked)
        patch.setattr(Path, "replace", replaced)
        patch.setattr(Path, "hardlink_to", linked)

    def overwrite(self, file: Path, data: bytes) -> None:
        place = self.names[-1].get(file.name, len(self.contents))
        if place == len(self.contents):
            self.contents.append(b"")
            self.change(self.names[-1] | {file.name: place})
        self.contents[place] = b"garbage"
        self.record()
        synced_files.overwrite_synced(file, data)
        self.contents[place] = data
        self.record()

    def sync(self, _folder: Path) -> None:
        del self.names[:-1]
        self.record()

    def change(self, names: dict[str, int]) -> None:
        self.names.append(names)
        self.record()

    def record(self) -> None:
        for names in self.names:
            self.left.append({name: self.contents[place] for name, place in names.items()})
        self.moments_left -= 1
        if not self.moments_left:
            raise PowerLossError


def check_left(disk: Disk, folder: Path, current: set[int]) -> None:
    """Check every folder left: the current state is one of *current*, and one before is there."""
    place = folder / store_module.STATE_FOLDER
    for left in disk.left:
        shutil.rmtree(folder, ignore_errors=True)
        place.mkdir(parents=True)
        for name, content in left.items():
            (place / name).write_bytes(content)
        found = read_state(folder)
        assert found in [state(k) for k in current]
        (place / "current").rename(place / "gone")  # a method that `Disk` does not follow
        before = read_state(folder)
        assert before is not None
        assert before.records[0].number < max(current)
    disk.left.clear()


def test_a_loss_of_power_leaves_two_generations_also_after_a_killed_process(
    tmp_path: Path,
) -> None:
    for moment in range(1, 40):
        with pytest.MonkeyPatch.context() as patch:
            disk = Disk(patch)
            folder = tmp_path / str(moment)
            folder.mkdir()
            first = Store(folder)
            for k in range(1, 5):
                disk.left.clear()
                first.save(state(k))
            check_left(disk, tmp_path / "left", {3, 4})
            disk.moments_left = moment
            with suppress(PowerLossError):
                first.save(state(5))
            is_complete, disk.moments_left = disk.moments_left > 0, 1000
            check_left(disk, tmp_path / "left", {4, 5})
            first.close()
            second = Store(folder)
            second.save(state(6))
            check_left(disk, tmp_path / "left", {4, 5, 6})
            for k in (7, 8):
                second.save(state(k))
                check_left(disk, tmp_path / "left", {k - 1, k})
            second.close()
        if is_complete:
            assert moment > 6
            return
    raise AssertionError("the save never came to its end")


# -- damage ---------------------------------------------------------------------------------------


def flips(size: int) -> list[int]:
    """Every byte of the head and of the checksum, and some of the rest."""
    return [*range(60), *range(60, size, 7), size - 1]


def test_a_flipped_bit_anywhere_is_noticed_and_the_generation_before_is_used(
    store: Store,
) -> None:
    store.save(state(1))
    store.save(state(2))
    whole = store.current.read_bytes()
    for place in flips(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << (place % 8)
        store.current.write_bytes(bytes(damaged))
        found = store.load()
        assert found is not None
        assert not found.continuous
        assert found.records == state(1).records
        assert found.round == 3, "round 2 may have been sent: its number is not used again"


@pytest.mark.parametrize("length", [0, 1, 19, 20, 40, 52, 60, -1])
def test_a_cut_file_is_noticed(store: Store, length: int) -> None:
    store.save(state(1))
    store.save(state(2))
    store.current.write_bytes(store.current.read_bytes()[:length])
    found = store.load()
    assert found is not None
    assert not found.continuous


def test_both_generations_damaged_says_how_to_recover(store: Store, tmp_path: Path) -> None:
    store.save(state(1))
    store.save(state(2))
    for file in (store.current, store.previous):
        file.write_bytes(b"rubbish")
    with pytest.raises(StateCorrupt, match="remove the folder: the node then starts") as refused:
        store.load()
    assert str(tmp_path / "state") in str(refused.value)
    shutil.rmtree(tmp_path / "state")
    store.close()
    fresh = Store(tmp_path)
    assert fresh.load() is None
    fresh._lock = os.dup(fresh._lock)  # the fixture closes the first one


def test_the_first_generation_damaged_with_none_before_is_corrupt(store: Store) -> None:
    store.save(state(1))
    store.current.write_bytes(b"rubbish")
    with pytest.raises(StateCorrupt):
        store.load()


def write(store: Store, payload: bytes) -> None:
    import hashlib

    magic = b"cipherfleet state 2\n"
    store.current.write_bytes(magic + hashlib.sha256(payload).digest() + payload)


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (b"", "not a state of this version"),
        (b"\x80", "not a state of this version"),
        (b"\xa1\xff", "not a state of this version"),
        (
            msgspec.msgpack.encode(msgspec.structs.replace(state(1), version=99)),
            f"version 99, this is {STATE_VERSION}",
        ),
        (
            msgspec.msgpack.encode(msgspec.to_builtins(state(1)) | {"more": 1}),
            "not a state of this version",
        ),
    ],
)
def test_a_whole_file_of_another_version_is_no_state(
    store: Store, payload: bytes, words: str
) -> None:
    write(store, payload)
    with pytest.raises(StateCorrupt, match=words):
        store_module._read(store.current)


def test_what_is_told_of_a_damaged_state_is_not_its_content(store: Store) -> None:
    store.save(state(1))
    store.current.write_bytes(store.current.read_bytes()[:-1])
    with pytest.raises(StateCorrupt) as refused:
        store.load()
    assert "0.5" not in str(refused.value)


# -- the mark of a start --------------------------------------------------------------------------


def test_a_start_is_known_after_the_state_is_lost(store: Store, tmp_path: Path) -> None:
    assert not store.has_run("keys of n")
    store.record_start("keys of n")
    store.save(state(3))
    store.close()
    shutil.rmtree(tmp_path / store_module.STATE_FOLDER)
    again = Store(tmp_path)
    assert again.load() is None
    assert again.has_run("keys of n")
    assert not again.has_run("other keys")  # of the next device with this id
    again.close()
    store._lock = os.open(tmp_path, os.O_RDONLY)  # the fixture closes it once more


def test_the_mark_is_written_once_and_durably(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    genuine = synced_files.sync_folder

    def recorded(folder: Path) -> None:
        synced.append(folder)
        genuine(folder)

    monkeypatch.setattr(synced_files, "sync_folder", recorded)
    store.record_start("keys of n")
    store.record_start("keys of n")
    assert synced == [tmp_path]


def test_a_damaged_mark_is_none(store: Store, tmp_path: Path) -> None:
    (tmp_path / store_module.STARTED_FILE).write_bytes(b"\xff\xfe\x00")
    assert not store.has_run("keys of n")
    store.record_start("keys of n")
    assert store.has_run("keys of n")


def test_a_new_state_folder_is_durable_before_anything_is_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(store_module, "sync_folder", synced.append)
    Store(tmp_path).close()
    assert synced == [tmp_path]
    Store(tmp_path).close()
    assert synced == [tmp_path]
