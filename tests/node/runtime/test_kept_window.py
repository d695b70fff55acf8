"""The window of a live sensor over restarts: what is kept, what is ignored, and what it costs."""

from __future__ import annotations

import json
import shutil
import signal
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np
import pytest

from cipherfleet_node.core.sample import Sample
from cipherfleet_node.core.window import take_in, window_of
from cipherfleet_node.runtime.bundle import Bundle, read_bundle
from cipherfleet_node.runtime.epochs import time_off_s
from cipherfleet_node.runtime.kept_window import (
    MAX_BYTES,
    SAVE_EVERY_S,
    WINDOW_FILE,
    KeptWindow,
    read_window,
    unpacked,
)
from cipherfleet_node.runtime.store import STATE_FOLDER
from cipherfleet_node.settings.sections import Broker, Simulation
from cipherfleet_provisioning.bundles import write_bundles
from cipherfleet_provisioning.fleet.fleet import load_fleet
from tests.support.daemons import Daemons, open_daemons, patched

FLEET = """\
config_version: 1
fleet: trial
crypto: {key_bits: 512, allow_weak_keys: true}
algorithm: {rounds: 4}
objective: {kind: mean, values: [{field: t}, {field: u}], window_s: 3600}
topology: {kind: ring}
nodes:
  - {each: 3, id: "n{n}", sensor: {kind: command, command: [cat, reading.json]}}
"""
NOON = 1_800_000_000.0  # a plausible time of day
OFTEN = "import cipherfleet_node.runtime.kept_window as kept; kept.SAVE_EVERY_S = 0.2"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of node n1."""
    folder = tmp_path_factory.mktemp("written")
    file = folder / "fleet.yaml"
    file.write_text(FLEET)
    folders = write_bundles(load_fleet(file), folder / "nodes", Broker(port=1), Simulation())
    (folders["n1"] / STATE_FOLDER).mkdir(mode=0o700)
    return folders["n1"]


@pytest.fixture
def bundle(written: Path, tmp_path: Path) -> Bundle:
    return read_bundle(shutil.copytree(written, tmp_path / "n1"))


def file_of(bundle: Bundle) -> Path:
    return bundle.folder / STATE_FOLDER / WINDOW_FILE


def restarted(bundle: Bundle, now: float = 0.0, clock_s: float = NOON) -> Bundle:
    """Return the bundle of the next start, its window filled from the file."""
    again = read_bundle(bundle.folder)
    KeptWindow(again, now, clock_s)
    return again


def rows_of(bundle: Bundle) -> list[list[float]]:
    window = window_of(bundle.objective)
    assert window is not None
    rows: list[list[float]] = window.rows.tolist()
    return rows


def saved(bundle: Bundle, count: int = 3) -> KeptWindow:
    """Take in *count* readings, one every 10 s from time 0 on, and save them 10 s later."""
    kept = KeptWindow(bundle, 0.0, NOON)
    for n in range(count):
        take_in(bundle.objective, [Sample({"t": float(n), "u": 1.0})], 10.0 * n)
    kept.save(10.0 * count, NOON)
    return kept


def test_a_window_survives_a_restart_with_the_ages_of_its_readings(bundle: Bundle) -> None:
    saved(bundle)
    again = restarted(bundle, now=7.0, clock_s=NOON + 100.0)
    assert rows_of(again) == rows_of(bundle) == [[0.0, 1.0], [1.0, 1.0], [2.0, 1.0]]
    window = window_of(again.objective)
    assert window is not None
    np.testing.assert_allclose(window.ages_s(7.0), [130.0, 120.0, 110.0])
    assert again.objective.ready


def test_readings_that_became_too_old_while_the_node_was_off_are_dropped(bundle: Bundle) -> None:
    saved(bundle)
    assert rows_of(restarted(bundle, clock_s=NOON + 3585.0)) == [[2.0, 1.0]]
    assert rows_of(restarted(bundle, clock_s=NOON + 1e6)) == [[2.0, 1.0]], "the newest one stays"


@pytest.mark.parametrize("clock_s", [0.0, NOON - 1e6, 1e12], ids=["1970", "set back", "far"])
def test_a_wrong_clock_drops_no_reading(bundle: Bundle, clock_s: float) -> None:
    saved(bundle)
    assert len(rows_of(restarted(bundle, clock_s=clock_s))) == 3
    assert time_off_s(NOON, clock_s) == 0.0


def test_only_the_owner_can_read_the_file(bundle: Bundle) -> None:
    saved(bundle)
    assert stat.S_IMODE(file_of(bundle).stat().st_mode) == 0o600


@pytest.mark.parametrize("place", ["first", "middle", "last", "cut", "empty", "large"])
def test_a_damaged_file_is_ignored_with_a_warning(
    bundle: Bundle, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    saved(bundle)
    file = file_of(bundle)
    data = bytearray(file.read_bytes())
    if place in ("first", "middle", "last"):
        data[{"first": 0, "middle": len(data) // 2, "last": -1}[place]] ^= 1
    else:
        data = {"cut": data[:-9], "empty": bytearray(), "large": data + bytes(2 * MAX_BYTES)}[place]
    file.write_bytes(data)
    assert rows_of(restarted(bundle)) == []
    assert "is damaged and ignored" in caplog.text


def test_a_window_of_other_columns_is_ignored(
    bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    saved(bundle)
    settings = bundle.folder / "node.yaml"
    settings.write_text(settings.read_text().replace("field: t\n", "field: v\n"))
    again = read_bundle(bundle.folder)
    KeptWindow(again, 0.0, NOON)
    assert rows_of(again) == []
    assert "belongs to other settings" in caplog.text


def test_the_file_is_bounded_and_holds_the_newest_readings(bundle: Bundle) -> None:
    section = msgspec.structs.replace(bundle.config.objective, window=200_000)
    window = window_of(bundle.objective)
    assert window is not None
    window.length = section.window
    kept = KeptWindow(bundle, 0.0, NOON)
    window.extend(np.arange(2 * 100_000).reshape(-1, 2).astype(float).tolist())
    kept.save(1.0, NOON)
    assert file_of(bundle).stat().st_size < MAX_BYTES + 1000
    found = read_window(file_of(bundle))
    assert found is not None
    assert unpacked(found)[0][-1].tolist() == [199_998.0, 199_999.0]


def test_the_card_is_written_rarely_and_only_after_a_change(bundle: Bundle) -> None:
    kept = saved(bundle)
    file_of(bundle).unlink()
    kept.save_if_due(SAVE_EVERY_S + 1.0, NOON)
    assert not file_of(bundle).exists(), "nothing has changed"
    take_in(bundle.objective, [Sample({"t": 9.0, "u": 1.0})], 40.0)
    kept.save_if_due(SAVE_EVERY_S + 2.0, NOON)
    assert not file_of(bundle).exists(), "the last look was a moment ago"
    kept.save_if_due(2 * SAVE_EVERY_S + 2.0, NOON)
    assert file_of(bundle).exists()


def test_a_disk_that_refuses_ends_no_node(bundle: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    kept = saved(bundle)
    take_in(bundle.objective, [Sample({"t": 9.0, "u": 1.0})], 40.0)
    (bundle.folder / STATE_FOLDER).rename(bundle.folder / "moved")
    kept.save(50.0, NOON)
    assert "the window is not saved" in caplog.text


@pytest.mark.parametrize(
    "sensor",
    [
        "{kind: synthetic, fields: {t: {mean: 1}, u: {mean: 1}}}",
        "{kind: csv, path: r.csv}",
    ],
    ids=["synthetic", "replay"],
)
def test_readings_that_come_again_are_not_kept(tmp_path: Path, sensor: str) -> None:
    (tmp_path / "r.csv").write_text("t,u\n1,2\n")
    file = tmp_path / "fleet.yaml"
    file.write_text(FLEET.replace("{kind: command, command: [cat, reading.json]}", sensor))
    folders = write_bundles(load_fleet(file), tmp_path / "nodes", Broker(port=1), Simulation())
    (folders["n1"] / STATE_FOLDER).mkdir()
    replayed = read_bundle(folders["n1"])
    saved(replayed)
    assert not file_of(replayed).exists()


# -- real daemons -------------------------------------------------------------------------------


@contextmanager
def fleet_of_commands(folder: Path) -> Iterator[tuple[Daemons, Path]]:
    """A fleet whose sensors print the content of one file, which the test changes."""
    reading = folder / "reading.json"
    reading.write_text(json.dumps({"t": 20.0}))
    with open_daemons(folder, sensor=f"{{kind: command, command: [cat, {reading}]}}") as daemons:
        yield daemons, reading


def kept_rows(daemons: Daemons, name: str) -> list[float]:
    found = read_window(daemons.bundles[name] / STATE_FOLDER / WINDOW_FILE)
    return [] if found is None else unpacked(found)[0][:, 0].tolist()


def test_the_window_of_a_real_daemon_survives_a_stop_and_a_kill(tmp_path: Path) -> None:
    with fleet_of_commands(tmp_path) as (daemons, reading):
        daemons.start("n1", "n2", "n3")
        daemons.wait_for_rounds(["n1"], 5)
        daemons.signal("n1", signal.SIGTERM)
        first = kept_rows(daemons, "n1")
        assert len(first) >= 5
        assert set(first) == {20.0}
        reading.write_text(json.dumps({"t": 30.0}))
        daemons.start("n1", command=patched(OFTEN))
        daemons.wait(lambda: 30.0 in kept_rows(daemons, "n1"), "new reading in the file")
        daemons.signal("n1", signal.SIGKILL)
        after = kept_rows(daemons, "n1")
        assert after[: len(first)] == first
        assert f"the window has {len(first)} readings" in daemons.log("n1")
