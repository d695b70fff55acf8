"""What `cipherfleet run` does when a node's process ends."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from cipherfleet_deploy.local.processes import LocalFleet
from cipherfleet_deploy.local.record import FleetFailed
from cipherfleet_node.errors import ConfigError, IdentityClash, NothingExchanged


def poll_for(fleet: LocalFleet, seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        assert not fleet.poll()
        time.sleep(0.05)


def open_fleet(folder: Path, codes: dict[str, int | None]) -> LocalFleet:
    for name in codes:
        (folder / name).mkdir()
    fleet = LocalFleet({name: folder / name for name in codes}, stalled_after_s=1000.0)
    for name, code in codes.items():
        # A shell ignores the folder of the node, which is appended.
        last = "sleep 1000" if code is None else f"exit {code}"
        fleet.nodes[name].command = ("/bin/sh", "-c", last)
    return fleet


@pytest.mark.parametrize(
    ("code", "is_final"),
    [
        (IdentityClash.exit_code, False),
        (ConfigError.exit_code, True),
        (NothingExchanged.exit_code, True),
    ],
)
def test_a_clash_of_identities_ends_one_node_and_not_its_fleet(
    tmp_path: Path, code: int, is_final: bool
) -> None:
    with open_fleet(tmp_path, {"n1": code, "n2": None}) as fleet:
        fleet.start()
        process = fleet.nodes["n1"].process
        assert process is not None
        process.wait(60)
        if is_final:
            with pytest.raises(FleetFailed, match=f"'n1' ended with exit code {code}"):
                fleet.poll()
        else:
            poll_for(fleet, 2.0)
            assert fleet.nodes["n1"].restarts == 0  # not at once
            assert fleet.nodes["n2"].process is not None
            assert fleet.nodes["n2"].process.poll() is None


def test_a_fleet_whose_other_nodes_have_finished_names_the_clash(tmp_path: Path) -> None:
    with open_fleet(tmp_path, {"n1": IdentityClash.exit_code, "n2": 0}) as fleet:
        fleet.start()
        for node in fleet.nodes.values():
            assert node.process is not None
            node.process.wait(60)
        with pytest.raises(FleetFailed, match="'n1' ended with exit code 6"):
            fleet.poll()
