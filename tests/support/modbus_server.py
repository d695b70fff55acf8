"""pymodbus' own server in a process of its own, over TCP or over a serial port.

`python -m tests.support.modbus_server tcp` prints its port, `... serial PATH` an empty line.
"""

from __future__ import annotations

import asyncio
import os
import select
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from cipherfleet_broker.die_with_parent import die_with_parent

UNIT = 7
FLOAT_HIGH, FLOAT_LOW = struct.unpack(">HH", struct.pack(">f", 21.5))
NAN_HIGH, NAN_LOW = struct.unpack(">HH", struct.pack(">f", float("nan")))
# By address. Holding and input registers are different numbers.
HOLDING = {0: [-105 & 0xFFFF, 65000], 10: [0xFFFE, 0xEE90], 20: [FLOAT_HIGH, FLOAT_LOW]}
HOLDING |= {30: [FLOAT_LOW, FLOAT_HIGH], 40: [NAN_HIGH, NAN_LOW]}  # 10 is -70000
INPUT = {0: [235, 452]}


async def serve(kind: str, path: str) -> None:
    from pymodbus.server import ModbusSerialServer, ModbusTcpServer
    from pymodbus.simulator import DataType, SimData, SimDevice

    def block(registers: dict[int, list[int]]) -> list[SimData]:
        return [SimData(a, values=v, datatype=DataType.REGISTERS) for a, v in registers.items()]

    bits = [SimData(0, values=[False] * 16, datatype=DataType.BITS)]
    device = SimDevice(UNIT, simdata=(bits, bits, block(HOLDING), block(INPUT)))
    if kind == "tcp":
        tcp = ModbusTcpServer(device, address=("127.0.0.1", 0))
        await tcp.serve_forever(background=True)
        assert isinstance(tcp.transport, asyncio.Server)
        print(tcp.transport.sockets[0].getsockname()[1], flush=True)  # noqa: T201
    else:
        line = ModbusSerialServer(device, port=path, baudrate=9600)
        await line.serve_forever(background=True)
        print(flush=True)  # noqa: T201
    await asyncio.Event().wait()


@contextmanager
def modbus_server(kind: str, path: str = "") -> Iterator[str]:
    """Run the server, and give what it prints."""
    command = [sys.executable, "-m", "tests.support.modbus_server", kind, path]
    process = subprocess.Popen(die_with_parent(command), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


@contextmanager
def joined(first: int, second: int) -> Iterator[None]:
    """Carry all bytes between two devices of pseudo-terminals, as a cable does."""
    is_over = threading.Event()

    def work() -> None:
        while not is_over.is_set():
            for end in select.select([first, second], [], [], 0.05)[0]:
                os.write(second if end == first else first, os.read(end, 4096))

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], sys.argv[2] if sys.argv[2:] else ""))
