"""A sensor in the registers of a Modbus device, over TCP or over a serial line (RTU).

Only two of the protocol's functions are needed, reading of holding and of input registers. They are
here, since a library would take more memory than the rest of the sensors; see DECISIONS.md.

A request is the function, the address of the first register and the number of registers. The reply
is the function, the number of bytes and the registers, each with its high byte first. A device that
refuses replies with the function + 128 and a reason. Over TCP seven bytes precede (MBAP): number of
the request, 0, length, unit. Over a serial line the unit precedes and a CRC-16 follows.

Sources: "MODBUS Application Protocol Specification V1.1b3", 6.3, 6.4 and 7; "MODBUS Messaging on
TCP/IP Implementation Guide V1.0b", 3.1.3; "MODBUS over Serial Line V1.02", 2.5.1.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Collection
from pathlib import Path
from typing import Protocol

from cipherfleet_node.core.sample import Sample
from cipherfleet_node.errors import ConfigError, SensorUnavailable
from cipherfleet_node.settings.sections import ModbusRegister, ModbusSensor

from .base import check_fields, check_plausible
from .serial_port import SerialPort
from .sysfs import TimedReader

FUNCTIONS = {"holding": 3, "input": 4}
REFUSES = 0x80  # added to the function in a reply that refuses
FORMATS = {"int16": ">h", "uint16": ">H", "int32": ">i", "uint32": ">I", "float32": ">f"}
REASONS = {
    1: "it has no such function",
    2: "it has no such register",
    3: "it has not so many registers",
    4: "it has failed",
    5: "it is still busy",
    6: "it is busy",
    10: "the gateway has no path to the device",
    11: "the device does not reply to the gateway",
}
_HEADER = struct.Struct(">HHHB")  # number of the request, 0, length of the rest, unit
_LOOK_UP_S = 0.5  # added to timeout_s, for a request that ends by itself
_SILENCE_S = 0.005  # before a request on a serial line; 3.5 characters at 9600 baud are 4 ms


class ModbusError(SensorUnavailable):
    """A reply that does not have the registers that were asked for, as the end of a sentence."""


class Line(Protocol):
    """A connection to a device."""

    def ask(self, unit: int, request: bytes) -> bytes:
        """Send *request* to *unit* and return the reply; raises ModbusError and OSError."""
        ...


class ModbusDevice:
    """Read each configured register once per read, over a connection of its own."""

    def __init__(self, config: ModbusSensor, needed: Collection[str]) -> None:
        self.fields = tuple(config.registers)
        self._config = config
        self._who = (
            f"modbus unit {config.unit} at {config.device or f'{config.host}:{config.port}'}"
        )
        check_fields(self._who, self.fields, needed, config.limits)
        if config.device is not None and not Path(config.device).is_char_device():
            raise ConfigError(
                f"{self._who}: is not here",
                remedy="plug it in, and write the path below /dev/serial/by-id",
            )
        self._reader = TimedReader(self._who, config.timeout_s + _LOOK_UP_S)

    def read(self) -> list[Sample]:
        """Return one sample of all registers; raises SensorUnavailable if one is not replied."""
        values = self._reader.run(self._measure)
        check_plausible(self._who, values, self._config.limits)
        return [Sample(values)]

    def close(self) -> None:
        """Do nothing: no connection is open between two reads."""

    def _measure(self) -> dict[str, float]:
        config = self._config
        deadline = time.monotonic() + config.timeout_s
        try:
            if config.device is not None:
                with SerialPort(config.device, config.baud, config.parity) as port:
                    return self._ask_all(SerialLine(port, deadline))
            where = (config.host or "", config.port)
            with socket.create_connection(where, timeout=config.timeout_s) as connection:
                return self._ask_all(TcpLine(connection, deadline))
        except TimeoutError:
            limit = f"{config.timeout_s:g} s"
            raise SensorUnavailable(f"{self._who}: no reply within {limit}") from None
        except OSError as error:
            problem = error.strerror or type(error).__name__
            raise SensorUnavailable(f"{self._who}: cannot be read: {problem}") from None

    def _ask_all(self, line: Line) -> dict[str, float]:
        values = {}
        for name, register in self._config.registers.items():
            try:
                reply = line.ask(self._config.unit, make_request(register))
                values[name] = read_reply(register, reply)
            except ModbusError as error:
                raise SensorUnavailable(f"{self._who}: {name}: {error.text}") from None
        return values


def make_request(register: ModbusRegister) -> bytes:
    """Return the request for *register*, without unit and checksum."""
    return struct.pack(">BHH", FUNCTIONS[register.table], register.address, _words(register))


def read_reply(register: ModbusRegister, reply: bytes) -> float:
    """Return the number in the *reply* to the request for *register*; raises ModbusError."""
    function, size = FUNCTIONS[register.table], 2 * _words(register)
    if len(reply) == 2 and reply[0] == function + REFUSES:
        reason = REASONS.get(reply[1], f"with reason {reply[1]}")
        raise ModbusError(f"the device refuses the request: {reason}")
    if len(reply) != 2 + size or reply[0] != function or reply[1] != size:
        raise ModbusError("the reply is not to this request")
    data = reply[2:]
    if register.words == "low_first":
        data = data[2:] + data[:2]
    (number,) = struct.unpack(FORMATS[register.type], data)
    return float(number) * register.scale + register.offset


def _words(register: ModbusRegister) -> int:
    return struct.calcsize(FORMATS[register.type]) // 2


class TcpLine:
    """A TCP connection, with at most one request at a time."""

    def __init__(self, connection: socket.socket, deadline: float) -> None:
        self._connection, self._deadline = connection, deadline
        self._number = 0

    def ask(self, unit: int, request: bytes) -> bytes:
        """Send *request* and return the reply, without the header."""
        self._number += 1
        self._connection.settimeout(self._left())
        self._connection.sendall(_HEADER.pack(self._number, 0, len(request) + 1, unit) + request)
        number, protocol, length, other = _HEADER.unpack(self._receive(_HEADER.size))
        if (number, protocol, other) != (self._number, 0, unit) or not 2 <= length <= 254:
            raise ModbusError("the reply is not to this request")
        return self._receive(length - 1)

    def _receive(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            self._connection.settimeout(self._left())
            piece = self._connection.recv(size - len(data))
            if not piece:
                raise ModbusError("the device has closed the connection")
            data += piece
        return data

    def _left(self) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left


class SerialLine:
    """A serial line, on which one device replies at a time."""

    def __init__(self, port: SerialPort, deadline: float) -> None:
        self._port, self._deadline = port, deadline

    def ask(self, unit: int, request: bytes) -> bytes:
        """Send *request* and return the reply, without unit and checksum."""
        time.sleep(_SILENCE_S)
        frame = bytes([unit]) + request
        self._port.write(frame + crc16(frame))
        reply = self._receive(b"", 5)  # the length of a refusal, and less than any other reply
        size = 5 + reply[2] if reply[1] == request[0] else 5
        reply = self._receive(reply, size)[:size]  # the end of sending may add a byte of noise
        if crc16(reply[:-2]) != reply[-2:]:
            raise ModbusError("the reply has a wrong checksum")
        if reply[0] != unit:
            raise ModbusError("another unit has replied")
        return reply[1:-2]

    def _receive(self, data: bytes, size: int) -> bytes:
        """Return *data* and what follows it, at least *size* bytes."""
        while len(data) < size:
            piece = self._port.read(self._deadline)
            if not piece:
                raise TimeoutError
            data += piece
        return data


def crc16(data: bytes) -> bytes:
    """Return the checksum of a frame, the low byte first."""
    crc = 0xFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xA001 if crc & 1 else 0)
    return crc.to_bytes(2, "little")
