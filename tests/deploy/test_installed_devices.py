"""Devices with TLS, installed by install.sh and started as their units do: they close rounds."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import load_pem_x509_certificate

from cipherfleet_broker import start_broker
from cipherfleet_deploy import provision_session as provision
from cipherfleet_deploy.provision_session import Reach
from cipherfleet_node.keys.key_files import read_signing_key
from cipherfleet_provisioning.ledger import Maker
from tests.support.device_card import NODE, OTHERS, InstalledDevice, Site, has_joined, secured_site

pytestmark = pytest.mark.fleet

SMALL_KEYS = "crypto: {key_bits: 512, allow_weak_keys: true}\n"
WITHIN_S = 120.0


class Devices:
    """All nodes of a fleet, each installed under a prefix of its own."""

    def __init__(self, site: Site, folder: Path) -> None:
        assert site.home is not None
        self.site, self.home = site, site.home
        archives = site.home / "current" / "archives"
        self.installed = {
            name: InstalledDevice(folder / name, name, archives / f"{name}.tar.gz")
            for name in (NODE, *OTHERS)
        }

    def start(self) -> None:
        for device in self.installed.values():
            device.start()

    def stop(self) -> None:
        for device in self.installed.values():
            device.stop()

    def wait(self, happened: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + WITHIN_S
        while not happened():
            logs = "".join(
                f"\n{name}, round {device.round}:\n{device.log.read_text()[-1500:]}"
                for name, device in self.installed.items()
            )
            assert time.monotonic() < deadline, f"{what} did not happen{logs}"
            time.sleep(0.1)

    def close_rounds(self) -> None:
        """Wait until every node has closed rounds from now on, and agrees with the others."""
        latest = max(device.round for device in self.installed.values())
        self.wait(
            lambda: all(has_joined(each.state, latest + 3) for each in self.installed.values()),
            f"rounds after round {latest}",
        )


@contextmanager
def devices_of(maker: Maker, folder: Path) -> Iterator[Devices]:
    site = secured_site(folder, maker, SMALL_KEYS)
    with start_broker("embedded", site.port, site.security):
        devices = Devices(site, folder / "devices")
        try:
            devices.start()
            yield devices
        finally:
            devices.stop()


def public_key_of(certificate: Path) -> bytes:
    key = load_pem_x509_certificate(certificate.read_bytes()).public_key()
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def public_half_of(key: Path) -> bytes:
    public = read_signing_key(key).public_key()
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def renew_certificate(devices: Devices) -> None:
    certificate = devices.installed[NODE].state / "tls/node.pem"
    before = certificate.read_bytes()
    provision.rotate(devices.home, NODE, "certificate", None, Reach(timeout_s=60))
    devices.wait(lambda: certificate.read_bytes() != before, "a new certificate")
    devices.close_rounds()


def renew_keys(devices: Devices) -> None:
    device = devices.installed[NODE]
    certificate = device.state / "tls/node.pem"
    before = public_key_of(certificate)
    provision.rotate(devices.home, NODE, "keys", None, Reach(timeout_s=60, margin_s=1))
    devices.wait(lambda: public_key_of(certificate) != before, "new keys")
    devices.close_rounds()


def restart(devices: Devices) -> None:
    """systemd hands the service the same credentials at every start, however old they are."""
    devices.installed[NODE].stop()
    devices.installed[NODE].start()
    devices.close_rounds()


def test_devices_with_keys_of_their_operator_close_rounds_and_take_renewals(
    tmp_path: Path,
) -> None:
    with devices_of("operator", tmp_path) as devices:
        device = devices.installed[NODE]
        given = public_half_of(device.kept / "node.key")
        assert not (device.state / "tls/node.key").exists()
        devices.close_rounds()

        renew_certificate(devices)  # it is for the key among the credentials, which stays there
        assert public_key_of(device.state / "tls/node.pem") == given
        assert not list(device.state.rglob("*.key"))
        restart(devices)

        renew_keys(devices)  # made on the device: they come before those among the credentials
        own = public_half_of(device.state / "tls/node.key")
        assert public_key_of(device.state / "tls/node.pem") == own != given
        restart(devices)
        renew_certificate(devices)
        assert public_key_of(device.state / "tls/node.pem") == own
        assert device.run("check-config").returncode == 0


def test_devices_that_make_their_keys_enrol_close_rounds_and_take_renewals(
    tmp_path: Path,
) -> None:
    with devices_of("device", tmp_path) as devices:
        device = devices.installed[NODE]
        assert [file.name for file in sorted(device.kept.iterdir())] == ["bundle", "node.key"]
        first = public_half_of(device.kept / "node.key")  # of the 90 days in which it may enrol
        assert public_key_of(device.state / "tls/node.pem") == first
        devices.site.enrol()
        devices.close_rounds()
        own = public_half_of(device.state / "tls/node.key")
        assert public_key_of(device.state / "tls/node.pem") == own != first
        restart(devices)

        renew_certificate(devices)
        assert public_key_of(device.state / "tls/node.pem") == own
        renew_keys(devices)
        assert public_half_of(device.state / "tls/node.key") != own
        restart(devices)
        assert device.run("check-config").returncode == 0


# -- what the device says of itself --------------------------------------------------------------


@pytest.fixture(scope="module", params=["operator", "device"])
def installed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> InstalledDevice:
    folder = tmp_path_factory.mktemp(request.param)
    site = secured_site(folder, request.param, SMALL_KEYS)
    assert site.home is not None
    archive = site.home / "current" / "archives" / f"{NODE}.tar.gz"
    return InstalledDevice(folder / "device", NODE, archive)


@pytest.fixture
def device(installed: InstalledDevice, tmp_path: Path) -> InstalledDevice:
    """A device of each maker, for a test to change."""
    return installed.copy_to(tmp_path / "device")


def has_own_keys(device: InstalledDevice) -> bool:
    return not (device.kept / "paillier.json").exists()


def test_check_config_tells_an_enrolled_device_from_one_that_is_not(
    device: InstalledDevice,
) -> None:
    done = device.run("check-config --json")
    summary = json.loads(done.stdout)
    if has_own_keys(device):
        assert done.returncode == 7
        assert (summary["enrolled"], summary["neighbours"], summary["seal"]) == (False, [], None)
        (line,) = done.stderr.splitlines()
        assert "is valid, but not enrolled yet; run the node" in line
        (device.state / "token").unlink()
        refused = device.run("check-config")
        assert (refused.returncode, refused.stdout) == (3, "")
        assert f"{device.state}/token: cannot be read" in refused.stderr
    else:
        assert (done.returncode, done.stderr) == (0, "")
        assert (summary["enrolled"], summary["neighbours"]) == (True, sorted(OTHERS))


@pytest.mark.parametrize("command", ["run", "check-config", "doctor"])
def test_a_key_that_is_not_there_is_named_with_its_remedy(
    device: InstalledDevice, command: str
) -> None:
    """Asked without the service's credentials, and where the unit does not load the key."""
    name = "tls/node.key" if has_own_keys(device) else "keys/paillier.json"
    asked = device.run(command, as_service=False)
    assert asked.returncode == 3
    assert "Traceback" not in asked.stderr
    lines = [line for line in (asked.stdout + asked.stderr).splitlines() if name in line]
    assert f"{device.state}/{name}: cannot be read: No such file or directory" in lines[0]
    assert "set CREDENTIALS_DIRECTORY (on an installed device: /etc/cipherfleet/NODE)" in lines[0]

    unit = device.root / "etc/systemd/system/cipherfleet-node.service"
    key = f"LoadCredential=node.key:/etc/cipherfleet/{NODE}/node.key\n"
    assert key in unit.read_text()
    unit.write_text(unit.read_text().replace(key, ""))
    lost = device.run(command)
    assert lost.returncode == 3
    assert "Traceback" not in lost.stderr
    lines = [line for line in (lost.stdout + lost.stderr).splitlines() if "node.key" in line]
    assert f"{device.state}/tls/node.key: cannot be read: No such file or directory" in lines[0]
    assert "CREDENTIALS_DIRECTORY" in lines[0]
    assert lines[0].endswith("get the bundle again from provisioning")
