"""Functions that the tests call in a guest, where a Linux kernel has drivers that this one lacks.

They import little: an emulated processor takes seconds for libraries.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import subprocess
import time
from pathlib import Path
from typing import Any

LM75, THERMOMETERS = 0x48, Path("/sys/bus/i2c/devices/i2c-0")
CHIP_MODULES = {"i2c_dev": "", "i2c_stub": f"chip_addr={LM75:#x}", "lm75": ""}
TEMPERATURES = (21.5, -10.5, 0.0, 85.0, 125.0)
DELAY_MODULES = {"sch_netem": ""}
DELAY_MS, JOURNEYS = 50, 10
I2C_SLAVE_FORCE, I2C_SMBUS, WORD_DATA = 0x0706, 0x0720, 3  # <linux/i2c-dev.h>


class _Smbus(ctypes.Structure):
    _fields_ = (
        ("is_read", ctypes.c_uint8),
        ("register", ctypes.c_uint8),
        ("size", ctypes.c_uint32),
        ("data", ctypes.POINTER(ctypes.c_uint16)),
    )


def _set_temperature(celsius: float) -> None:
    """Let the lm75 measure *celsius*: 9 bits of half degrees, the high byte first."""
    register = int(celsius * 2) << 7 & 0xFFFF
    word = ctypes.c_uint16(register >> 8 | (register & 0xFF) << 8)  # SMBus: the low byte first
    device = os.open("/dev/i2c-0", os.O_RDWR)
    try:
        fcntl.ioctl(device, I2C_SLAVE_FORCE, LM75)  # the driver has the address already
        fcntl.ioctl(device, I2C_SMBUS, _Smbus(0, 0, WORD_DATA, ctypes.pointer(word)))
    finally:
        os.close(device)


def read_lm75() -> dict[str, Any]:
    """Return what our sensor reads of an lm75, and what it says once the chip is gone."""
    from cipherfleet_node.errors import SensorUnavailable
    from cipherfleet_node.sensors.hwmon import HwmonChip
    from cipherfleet_node.settings.sections import HwmonSensor

    (THERMOMETERS / "new_device").write_text(f"lm75 {LM75:#x}")
    sensor = HwmonChip(HwmonSensor(chip="lm75", inputs={"temp1_input": "t"}), ["t"])
    read = []
    for celsius in TEMPERATURES:
        _set_temperature(celsius)
        read.append(sensor.read()[0].values["t"])
    (THERMOMETERS / "delete_device").write_text(f"{LM75:#x}")
    try:
        sensor.read()
        lost = ""
    except SensorUnavailable as error:
        lost = str(error)
    return {"read": read, "lost": lost}


def measure_delay() -> dict[str, list[float]]:
    """Return round trips to mosquitto and back in milliseconds, without and with a delay."""
    from cipherfleet_broker import start_broker

    with start_broker("mosquitto") as broker:
        before = _round_trips_ms(broker.port)
        delay = ["tc", "qdisc", "add", "dev", "lo", "root", "netem", "delay", f"{DELAY_MS}ms"]
        subprocess.run(delay, check=True)
        return {"before": before, "delayed": _round_trips_ms(broker.port)}


def _round_trips_ms(port: int) -> list[float]:
    import queue

    import paho.mqtt.client as mqtt
    from paho.mqtt.enums import CallbackAPIVersion

    from cipherfleet_node.runtime.mqtt import set_no_delay

    arrived: queue.SimpleQueue[float] = queue.SimpleQueue()
    client = mqtt.Client(CallbackAPIVersion.VERSION2)
    client.on_socket_open = set_no_delay
    client.on_subscribe = lambda *_: arrived.put(0.0)
    client.on_message = lambda *_: arrived.put(time.perf_counter())
    client.connect("127.0.0.1", port)
    client.loop_start()
    client.subscribe("echo")
    arrived.get(timeout=60)
    took = []
    for _ in range(JOURNEYS):
        began = time.perf_counter()
        client.publish("echo", b"x")
        took.append(1000.0 * (arrived.get(timeout=60) - began))
    client.disconnect()
    client.loop_stop()
    return took
