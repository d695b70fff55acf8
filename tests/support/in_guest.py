"""Functions that the tests call in a guest, where a Linux kernel has drivers that this one lacks.

They import little: an emulated processor takes seconds for libraries.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
import subprocess
import time
from pathlib import Path
from typing import Any

import msgspec

LM75, BMP280, BUS = 0x48, 0x76, Path("/sys/bus/i2c/devices/i2c-0")
MODULES = {
    "i2c_dev": "",
    "i2c_stub": f"chip_addr={LM75:#x},{BMP280:#x}",
    "lm75": "",
    "bmp280": "",
    "bmp280_i2c": "",
    "sch_netem": "",
}
TEMPERATURES = (21.5, -10.5, 0.0, 85.0, 125.0)
# Source: Bosch, BMP280 data sheet, 3.12: trimming parameters and raw data of its example. They
# result in 25.08 degrees Celsius and 100653.27 Pa.
BMP280_ID = {0xD0: b"\x58"}
BMP280_TRIMMING = struct.pack(
    "<HhhHhhhhhhhh",
    *(27504, 26435, -1000, 36477, -10685, 3024, 2855, 140, -7, 15500, -14600, 6000),
)
# 20 bits each, in three bytes whose last four bits are 0.
BMP280_PRESSURE, BMP280_TEMPERATURE = 415148, 519888
DELAY_MS, JOURNEYS = 50, 10
# <linux/i2c-dev.h>
I2C_SLAVE_FORCE, I2C_SMBUS, BYTE_DATA, WORD_DATA = 0x0706, 0x0720, 2, 3


class _Smbus(ctypes.Structure):
    _fields_ = (
        ("is_read", ctypes.c_uint8),
        ("register", ctypes.c_uint8),
        ("size", ctypes.c_uint32),
        ("data", ctypes.POINTER(ctypes.c_uint16)),
    )


def _write(address: int, register: int, size: int, value: int) -> None:
    """Write a register of an emulated chip."""
    data = ctypes.c_uint16(value)
    device = os.open("/dev/i2c-0", os.O_RDWR)
    try:
        fcntl.ioctl(device, I2C_SLAVE_FORCE, address)  # a driver may have the address already
        fcntl.ioctl(device, I2C_SMBUS, _Smbus(0, register, size, ctypes.pointer(data)))
    finally:
        os.close(device)


def _set_temperature(celsius: float) -> None:
    """Let the lm75 measure *celsius*: 9 bits of half degrees, the high byte first."""
    word = int(celsius * 2) << 7 & 0xFFFF
    _write(LM75, 0, WORD_DATA, word >> 8 | (word & 0xFF) << 8)  # SMBus: the low byte first


def _set_bmp280() -> None:
    """Let the bmp280 measure what its data sheet does."""
    raw = b"".join((each << 4).to_bytes(3, "big") for each in (BMP280_PRESSURE, BMP280_TEMPERATURE))
    for first, data in (*BMP280_ID.items(), (0x88, BMP280_TRIMMING), (0xF7, raw)):
        for register, byte in enumerate(data, first):
            _write(BMP280, register, BYTE_DATA, byte)


def measure_all() -> dict[str, Any]:
    """Return what the functions below return, by their names."""
    return {call.__name__: call() for call in (read_chips, measure_delay)}


def read_chips() -> dict[str, Any]:
    """Return what our sensors read of the chips, and what they say once the chips are gone."""
    from cipherfleet_node.sensors.hwmon import HwmonChip
    from cipherfleet_node.sensors.iio import IioChip
    from cipherfleet_node.settings.sections import HwmonSensor, IioSensor

    (BUS / "new_device").write_text(f"lm75 {LM75:#x}")
    lm75 = HwmonChip(HwmonSensor(chip="lm75", inputs={"temp1_input": "t"}), ["t"])
    read = []
    for celsius in TEMPERATURES:
        _set_temperature(celsius)
        read.append(lm75.read()[0].values["t"])
    _set_bmp280()
    (BUS / "new_device").write_text(f"bmp280 {BMP280:#x}")
    config = IioSensor(chip="bmp280", inputs={"temp": "t", "pressure": "p"})
    bmp280 = IioChip(config, ["t", "p"])
    by_place = IioChip(msgspec.structs.replace(config, chip=f"0-{BMP280:04x}"), ["t", "p"])
    values = [dict(chip.read()[0].values) for chip in (bmp280, by_place)]
    for address in (LM75, BMP280):
        (BUS / "delete_device").write_text(f"{address:#x}")
    return {"lm75": read, "bmp280": values, "lost": [_complaint(lm75), _complaint(bmp280)]}


def _complaint(sensor: Any) -> str:
    from cipherfleet_node.errors import SensorUnavailable

    try:
        sensor.read()
    except SensorUnavailable as error:
        return str(error)
    return ""


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
