"""The section `privacy`: what provisioning fills in, what is refused, and what a node checks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cipherfleet_analysis.centralised import centralised_answer, minimise
from cipherfleet_analysis.result_privacy import (
    expected_error,
    perturbed_objectives,
    result_privacy_findings,
)
from cipherfleet_node.core.perturbation import Perturbed
from cipherfleet_node.errors import ConfigError
from cipherfleet_node.runtime.bundle import read_bundle
from cipherfleet_node.settings.node_yaml import load_node_config
from cipherfleet_node.settings.sections import Broker, Simulation
from cipherfleet_provisioning.bundles import READINGS_FILE, write_bundles
from cipherfleet_provisioning.fleet.fleet import Fleet, load_fleet
from cipherfleet_provisioning.ledger import settings_digest
from tests.support.paths import ROOT

LAB = ROOT / "examples/intel_lab"
COUNTS = {"a": 5, "b": 3, "c": 4}
TEXT = """\
config_version: 1
fleet: toy
crypto: {key_bits: 512, allow_weak_keys: true}
algorithm: {rounds: 4}
objective: {kind: least_squares, target: {field: y}, features: [{constant: 1}, {field: u}]}
privacy: {epsilon: 1}
topology: {kind: complete}
nodes:
  - {id: a, sensor: {kind: csv, path: r.csv, where: {node: a}}}
  - {id: b, sensor: {kind: csv, path: r.csv, where: {node: b}}}
  - {id: c, sensor: {kind: csv, path: r.csv, where: {node: c}}}
  - {id: far, role: follower}
"""
SYNTHETIC = "{kind: synthetic, fields: {y: {mean: 1}, u: {mean: 1}}}"


def fleet_of(folder: Path, *changes: tuple[str, str]) -> Fleet:
    rows = [f"{n},{i},{i * i / 9}\n" for n, count in COUNTS.items() for i in range(count)]
    (folder / "r.csv").write_text("node,u,y\n" + "".join(rows))
    text = TEXT
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    (folder / "fleet.yaml").write_text(text)
    return load_fleet(folder / "fleet.yaml")


def lab_with(folder: Path, privacy: str) -> Fleet:
    text = (
        (LAB / "fleet.yaml")
        .read_text()
        .replace("path: intel_lab.csv", f"path: {LAB}/intel_lab.csv")
    )
    (folder / "fleet.yaml").write_text(f"{text}\nprivacy: {privacy}\n")
    return load_fleet(folder / "fleet.yaml")


# -- provisioning ---------------------------------------------------------------------------------


def test_readings_are_counted_and_followers_are_not(tmp_path: Path) -> None:
    found = fleet_of(tmp_path).privacy
    assert found is not None
    assert (found.readings, found.nodes) == (min(COUNTS.values()), len(COUNTS))


def test_declared_readings_stay_and_the_window_bounds_counted_ones(tmp_path: Path) -> None:
    declared = fleet_of(tmp_path, ("epsilon: 1", "epsilon: 1, readings: 2")).privacy
    assert declared is not None
    assert declared.readings == 2
    bounded = fleet_of(tmp_path, ("kind: least_squares", "kind: least_squares, window: 2")).privacy
    assert bounded is not None
    assert bounded.readings == 2


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            (
                "kind: least_squares, target: {field: y}, features: [{constant: 1}, {field: u}]",
                "kind: mean, values: [{field: y}]",
            ),
            "objective.kind is mean: the section privacy needs one of least_squares",
        ),
        (("rounds: 4", "rounds: 4, method: statistics"), "algorithm.method is statistics: the sec"),
        (("kind: least_squares", "kind: ridge, minibatch: 2"), "objective.minibatch uses a part"),
        (("kind: least_squares", "kind: ridge, window_s: 60"), "objective.window_s drops readings"),
        (
            ("kind: least_squares", "kind: ridge, weight: reading, normalise_by: 4"),
            "objective.weight is reading, must be node",
        ),
        (("epsilon: 1", "epsilon: 1, readings: 4"), "is 4, but node 'b' has 3"),
        (("epsilon: 1", "epsilon: 1, readings: 5000"), "must be at most objective.window"),
        (("{kind: csv, path: r.csv, where: {node: b}}", SYNTHETIC), "kind is synthetic, must be"),
        (("where: {node: b}", "where: {node: b}, rows_per_round: 1"), "rows_per_round is not all"),
        (("where: {node: b}", "where: {node: b}, rounds_per_row: 9"), "rounds_per_row is not all"),
        (("epsilon: 1", "epsilon: 1, nodes: 3"), "privacy.nodes is refused here: provisioning"),
        (("epsilon: 1", "delta: 1e-6"), "privacy.epsilon is missing"),
        (("epsilon: 1", "epsilon: 0"), "privacy.epsilon is 0, must be a number > 0"),
        (("epsilon: 1", "epsilon: 1, colluders: 1"), "privacy.colluders is 1, must be"),
        (("epsilon: 1", "epsilon: 1, delta: 1"), "privacy.delta is 1, must be"),
    ],
)
def test_what_the_section_does_not_allow_is_refused_by_name(
    change: tuple[str, str], expected: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as refused:
        fleet_of(tmp_path, change)
    assert any(expected in str(each) for each in refused.value.findings), str(refused.value)


def test_a_follower_may_have_a_live_sensor(tmp_path: Path) -> None:
    changed = ("role: follower", f"role: follower, sensor: {SYNTHETIC}")
    assert fleet_of(tmp_path, changed).privacy is not None


def test_a_set_with_the_section_keeps_its_nodes(tmp_path: Path) -> None:
    fleet, smaller = (
        fleet_of(tmp_path, change)
        for change in (
            ("rounds: 4", "rounds: 4"),
            ("  - {id: far, role: follower}\n", ""),
        )
    )
    assert settings_digest(fleet) != settings_digest(smaller)


# -- the node -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    fleet = fleet_of(tmp_path_factory.mktemp("fleet"))
    target = tmp_path_factory.mktemp("made") / "nodes"
    return write_bundles(fleet, target, Broker(port=18830), Simulation())


def noise_of(folder: Path) -> Any:
    bundle = read_bundle(folder)
    assert isinstance(bundle.objective, Perturbed)
    bundle.objective.absorb(bundle.sensor.read())
    return bundle.objective.noise


def test_a_node_has_the_same_noise_after_a_restart_and_other_noise_than_others(
    folders: dict[str, Path],
) -> None:
    first = noise_of(folders["a"])
    np.testing.assert_array_equal(noise_of(folders["a"]), first)
    assert not np.allclose(noise_of(folders["b"]), first)


def test_node_yaml_has_the_complete_section(folders: dict[str, Path]) -> None:
    found = load_node_config(folders["b"]).privacy
    assert found is not None
    assert (found.epsilon, found.readings, found.nodes) == (1.0, 3, 3)
    assert found.readings_file is not None
    follower = load_node_config(folders["far"]).privacy
    assert follower is not None
    assert follower.readings_file is None
    assert not isinstance(read_bundle(folders["far"]).objective, Perturbed)


def test_changed_readings_of_one_node_are_refused(folders: dict[str, Path]) -> None:
    file = folders["c"] / READINGS_FILE
    before = file.read_text()
    try:
        file.write_text(before.replace(",0,0", ",0,1", 1))
        with pytest.raises(ConfigError, match="the readings were changed since") as refused:
            read_bundle(folders["c"])
        assert "provision the whole fleet again" in refused.value.remedy
    finally:
        file.write_text(before)


@pytest.mark.parametrize(
    ("old", "new"), [("epsilon: 1.0", "epsilon: 9.0"), ("penalty: 0.0", "penalty: 1.0")]
)
def test_changed_settings_of_one_node_are_refused(
    old: str, new: str, folders: dict[str, Path]
) -> None:
    file = folders["c"] / "node.yaml"
    before = file.read_text()
    assert before.count(old) == 1
    try:
        file.write_text(before.replace(old, new))
        with pytest.raises(ConfigError, match="checksum does not match"):
            load_node_config(folders["c"])
    finally:
        file.write_text(before)


# -- what it costs --------------------------------------------------------------------------------


def test_fifty_motes_are_within_0_05_at_epsilon_1(tmp_path: Path) -> None:
    """The median over 60 fixed seeds, by a central solver with the same perturbation."""
    fleet = lab_with(tmp_path, "{epsilon: 1}")
    answer = centralised_answer(fleet)
    assert answer is not None
    runs = perturbed_objectives(fleet, range(60))
    errors = [np.linalg.norm(minimise(each) - answer) for each in runs]
    median = float(np.median(errors) / np.linalg.norm(answer))
    assert median <= 0.05
    predicted = expected_error(fleet)
    assert predicted is not None
    assert predicted == pytest.approx(median, rel=0.25)


def test_findings_say_what_is_protected_what_not_and_the_error(tmp_path: Path) -> None:
    first, second, third = result_privacy_findings(lab_with(tmp_path, "{epsilon: 1}"))
    assert {each.subject for each in (first, second, third)} == {"privacy"}
    assert "one reading of one node from observers who see the result only" in first.text
    assert "k releases have 1 k and 1e-05 k" in first.text
    assert "nothing from neighbours" in second.text
    assert third.level == "note"
    warned = list(result_privacy_findings(lab_with(tmp_path, "{epsilon: 0.1, delta: 1e-3}")))
    assert [each.level for each in warned] == ["warn", "note", "warn"]


def test_there_is_no_finding_without_the_section(tmp_path: Path) -> None:
    fleet = fleet_of(tmp_path, ("privacy: {epsilon: 1}\n", ""))
    assert list(result_privacy_findings(fleet)) == []
    assert fleet.privacy is None
