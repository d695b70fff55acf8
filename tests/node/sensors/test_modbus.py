"""The sensor `modbus`, against pymodbus' own server over TCP and over a serial line."""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cipherfleet_node.errors import ConfigError, SensorUnavailable
from cipherfleet_node.sensors import SensorDevice, open_sensor
from cipherfleet_node.sensors.modbus import (
    FORMATS,
    REASONS,
    ModbusError,
    crc16,
    make_request,
    read_reply,
)
from cipherfleet_node.settings.sections import ModbusRegister, ModbusSensor
from tests.support.modbus_server import UNIT, joined, modbus_server
from tests.support.pseudo_terminal import PseudoTerminal

WAIT_S = 60.0  # for what takes milliseconds on an idle machine
REGISTERS: dict[str, dict[str, Any]] = {
    "int16": {"address": 0, "scale": 0.1},
    "uint16": {"address": 1, "type": "uint16"},
    "int32": {"address": 10, "type": "int32"},
    "uint32": {"address": 10, "type": "uint32"},
    "float32": {"address": 20, "type": "float32"},
    "low first": {"address": 30, "type": "float32", "words": "low_first"},
    "input": {"address": 0, "table": "input", "scale": 0.1, "offset": -40},
}
EXPECTED = {
    "int16": -10.5, "uint16": 65000, "int32": -70000, "uint32": 2**32 - 70000, "float32": 21.5,
    "low first": 21.5, "input": -16.5,
}  # fmt: skip


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with modbus_server("tcp") as printed:
        yield int(printed)


def opened(registers: dict[str, dict[str, Any]], **changes: Any) -> SensorDevice:
    if "device" in changes:
        path = changes.pop("device")
        sensor = opened_config(registers, host="x", **changes)
        sensor = msgspec.structs.replace(sensor, host=None, device=path)
    else:
        sensor = opened_config(registers, **{"host": "127.0.0.1", **changes})
    return open_sensor(sensor, Path(), list(registers))


def opened_config(registers: dict[str, dict[str, Any]], **changes: Any) -> ModbusSensor:
    given = {"registers": registers, "unit": UNIT, "timeout_s": WAIT_S, **changes}
    return msgspec.convert(given, ModbusSensor)


def complaint_of(sensor: SensorDevice) -> str:
    with pytest.raises(SensorUnavailable) as caught:
        sensor.read()
    return str(caught.value)


def test_registers_of_each_type_are_read_over_tcp(port: int) -> None:
    sensor = opened(REGISTERS, port=port)
    for _ in range(2):
        assert dict(sensor.read()[0].values) == pytest.approx(EXPECTED)


@pytest.fixture
def serial_line(tmp_path: Path) -> Iterator[PseudoTerminal]:
    """The port of a node, whose cable leads to a pymodbus server."""
    ours, theirs = PseudoTerminal(tmp_path / "ours"), PseudoTerminal(tmp_path / "theirs")
    with joined(ours.plug_in(), theirs.plug_in()), modbus_server("serial", str(theirs.port)):
        yield ours
    ours.unplug()
    theirs.unplug()


def test_registers_of_each_type_are_read_over_a_serial_line(serial_line: PseudoTerminal) -> None:
    sensor = opened(REGISTERS, device=str(serial_line.port))
    for _ in range(2):
        assert dict(sensor.read()[0].values) == pytest.approx(EXPECTED)
    absent = opened({"t": {"address": 99}}, device=str(serial_line.port))
    assert complaint_of(absent).endswith("t: the device refuses the request: " + REASONS[2])


def test_a_register_that_is_not_there_is_named_with_the_devices_reason(port: int) -> None:
    complaint = complaint_of(opened({"t": {"address": 99}}, port=port))
    reason = "t: the device refuses the request: it has no such register"
    assert complaint == f"modbus unit 7 at 127.0.0.1:{port}: {reason}"


def test_a_number_that_is_not_finite_or_outside_its_limits_is_withheld(port: int) -> None:
    sensor = opened({"t": {"address": 40, "type": "float32"}}, port=port)
    assert complaint_of(sensor).endswith("t is not a finite number")
    sensor = opened({"t": {"address": 1, "type": "uint16"}}, port=port, limits={"t": [-40, 60]})
    assert complaint_of(sensor).endswith("t is outside its limits [-40, 60]")


def test_a_device_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert complaint_of(opened({"t": {"address": 0}}, port=9)).endswith("Connection refused")
    with pytest.raises(ConfigError, match="is not here; plug it in"):
        opened({"t": {"address": 0}}, device=str(tmp_path / "ttyUSB0"))


# -- devices that do what they should not ---------------------------------------------------------


def serve_once(reply: Callable[[bytes], bytes]) -> int:
    """Reply to one request over TCP, and close; return the port."""
    server = socket.create_server(("127.0.0.1", 0))

    def work() -> None:
        with server, suppress(OSError):
            connection = server.accept()[0]
            with connection:
                connection.sendall(reply(connection.recv(100)))

    threading.Thread(target=work, daemon=True).start()
    port: int = server.getsockname()[1]
    return port


def frame(request: bytes, pdu: bytes, **changes: int) -> bytes:
    number, _, _, unit = struct.unpack(">HHHB", request[:7])
    fields = {"number": number, "protocol": 0, "length": len(pdu) + 1, "unit": unit} | changes
    return struct.pack(">HHHB", *fields.values()) + pdu


GOOD = bytes([3, 2, 0, 215])


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (lambda r: frame(r, GOOD, number=99), "t: the reply is not to this request"),
        (lambda r: frame(r, GOOD, protocol=1), "t: the reply is not to this request"),
        (lambda r: frame(r, GOOD, unit=9), "t: the reply is not to this request"),
        (lambda r: frame(r, GOOD, length=0), "t: the reply is not to this request"),
        (lambda r: frame(r, GOOD, length=65535), "t: the reply is not to this request"),
        (lambda r: frame(r, GOOD, length=100), "t: the device has closed the connection"),
        (lambda r: frame(r, bytes([4, 2, 0, 215])), "t: the reply is not to this request"),
        (lambda r: frame(r, bytes([3, 4, 0, 215, 0, 0])), "t: the reply is not to this request"),
        (lambda r: frame(r, bytes([0x83, 6])), "the device refuses the request: it is busy"),
        (lambda r: frame(r, bytes([0x83, 77])), "refuses the request: with reason 77"),
        (lambda _: b"HTTP/1.0 400", "t: the reply is not to this request"),
        (lambda _: b"", "t: the device has closed the connection"),
    ],
)
def test_a_wrong_reply_is_refused(reply: Callable[[bytes], bytes], words: str) -> None:
    assert complaint_of(opened({"t": {"address": 0}}, port=serve_once(reply))).endswith(words)


def test_these_replies_are_refused_for_their_fault_alone() -> None:
    port = serve_once(lambda request: frame(request, GOOD))
    assert opened({"t": {"address": 0}}, port=port).read()[0].values == {"t": 215.0}


def test_a_device_that_does_not_reply_is_late() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        sensor = opened({"t": {"address": 0}}, port=silent.getsockname()[1], timeout_s=0.2)
        assert complaint_of(sensor).endswith("no reply within 0.2 s")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda reply: reply, None),
        (lambda reply: reply[:-1] + bytes([reply[-1] ^ 1]), "the reply has a wrong checksum"),
        (lambda reply: b"\xff" + reply, "the reply has a wrong checksum"),
        (lambda reply: reply + b"\0", None),
        (lambda reply: reply[:3], "no reply within 0.5 s"),
        (lambda _: with_sum(bytes([9]) + GOOD), "another unit has replied"),
        (lambda _: with_sum(bytes([UNIT, 0x83, 2])), "it has no such register"),
    ],
)
def test_a_wrong_reply_on_a_serial_line_is_refused(
    tmp_path: Path, change: Callable[[bytes], bytes], words: str | None
) -> None:
    line = PseudoTerminal(tmp_path / "ours")
    device = line.plug_in()

    def work() -> None:
        request = b""
        while len(request) < 8:
            request += os.read(device, 8)
        os.write(device, change(with_sum(bytes([UNIT]) + GOOD)))

    thread = threading.Thread(target=work)
    thread.start()
    timeout_s = 0.5 if words == "no reply within 0.5 s" else WAIT_S
    sensor = opened({"t": {"address": 0}}, device=str(line.port), timeout_s=timeout_s)
    if words is None:
        assert sensor.read()[0].values == {"t": 215.0}
    else:
        assert complaint_of(sensor).endswith(words)
    thread.join()
    line.unplug()


def with_sum(data: bytes) -> bytes:
    return data + crc16(data)


def test_the_checksum_is_that_of_the_specification() -> None:
    """Source: MODBUS over Serial Line V1.02, 6.2.2: the CRC of 02 07 is 41 12."""
    assert crc16(bytes([2, 7])) == bytes([0x41, 0x12])


REGISTER = st.builds(
    ModbusRegister,
    address=st.integers(0, 65535),
    table=st.sampled_from(("holding", "input")),
    type=st.sampled_from(tuple(FORMATS)),
    words=st.sampled_from(("high_first", "low_first")),
)


@settings(deadline=None, max_examples=100)
@given(register=REGISTER, reply=st.binary(max_size=12))
def test_any_reply_is_a_number_or_a_modbus_error(register: ModbusRegister, reply: bytes) -> None:
    assert len(make_request(register)) == 5
    with suppress(ModbusError):
        assert isinstance(read_reply(register, reply), float)
