"""A node's own program, unchanged, reads sensors in a /sys that umockdev shows it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

# In umockdev's format: P is the device, E an attribute of its uevent, A a file, L a link.
DEVICES = """\
P: /devices/w1_bus_master1/28-0316a2795eff
E: SUBSYSTEM=w1
A: temperature=21562\\n
A: w1_slave=59 01 4b 46 7f ff 07 10 ad : crc=ad YES\\n59 01 4b 46 7f ff 07 10 ad t=21562\\n

P: /devices/i2c-1/1-0076/iio:device0
E: SUBSYSTEM=iio
A: name=bme280\\n
A: in_temp_input=21540\\n
A: in_humidityrelative_input=46210\\n

"""
PROGRAM = """
import json, msgspec
from pathlib import Path
from cipherfleet_node.sensors import open_sensor
from cipherfleet_node.settings.sections import Sensor
for given in (
    {"kind": "w1", "device": "28-0316a2795eff", "field": "t"},
    {"kind": "iio", "chip": "bme280", "inputs": {"temp": "t", "humidityrelative": "rh"}},
):
    sensor = open_sensor(msgspec.convert(given, Sensor), Path(), ["t"])
    print(json.dumps(dict(sensor.read()[0].values)))
"""


def test_a_program_reads_one_wire_and_iio_in_a_simulated_sys(tmp_path: Path) -> None:
    tools = [shutil.which(name) for name in ("umockdev-wrapper", "umockdev-run")]
    if None in tools:
        pytest.skip("NOT TESTED: umockdev is not installed: apt-get install umockdev")
    devices = tmp_path / "devices.umockdev"
    devices.write_text(DEVICES)
    command = [str(tools[1]), "-d", str(devices), "--", sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ['{"t": 21.562}', '{"t": 21.54, "rh": 46.21}']
