"""A sensor that is a program, which prints its readings as one JSON object of numbers."""

from __future__ import annotations

import os
import select
import subprocess
import time
from collections.abc import Collection
from pathlib import Path
from typing import IO

import msgspec

from cipherfleet_node.core.sample import Sample
from cipherfleet_node.errors import ConfigError, SensorUnavailable
from cipherfleet_node.programs import find_program, has_ended, kill_group, program_environment
from cipherfleet_node.settings.sections import CommandSensor

from .base import check_plausible, join_names

MAX_OUTPUT_BYTES = 64 * 1024
_LOOK_S = 0.01  # interval of the checks whether a program without output has ended


class Program:
    """Run a program once per read, without a shell, in *folder*.

    The program must end within timeout_s. After it has ended or failed, its whole process group is
    killed. Its output never appears in a message, and its standard error is discarded.
    """

    def __init__(self, config: CommandSensor, folder: Path, needed: Collection[str]) -> None:
        # The fields that it prints are known only when it runs, so the first read reports a
        # missing one.
        self.fields = tuple(dict.fromkeys(needed))
        self._who = f"sensor program {config.command[0]!r}"
        self._folder = folder.absolute()
        self._argv = [_executable(config.command[0], self._folder), *config.command[1:]]
        if any("\0" in argument for argument in self._argv):
            raise ConfigError(f"{self._who}: an argument holds a zero byte")
        self._config = config

    def read(self) -> list[Sample]:
        """Run the program; raises SensorUnavailable unless it prints numbers within the limits."""
        numbers = parse_numbers(self._who, self._run())
        wanted = {*self.fields, *self._config.limits}
        absent = sorted(wanted - numbers.keys())
        if absent:
            # A name that is not an identifier could be a reading, and is not shown.
            known = join_names(name for name in numbers if name.isidentifier())
            raise SensorUnavailable(f"{self._who}: printed no {join_names(absent)}, but {known}")
        check_plausible(self._who, {name: numbers[name] for name in wanted}, self._config.limits)
        return [Sample({name: numbers[name] for name in self.fields})]

    def close(self) -> None:
        """Do nothing: no program runs between two reads."""

    def _run(self) -> bytes:
        """Return the output; raises SensorUnavailable unless it ends in time with exit code 0."""
        deadline = time.monotonic() + self._config.timeout_s
        process = self._start()
        assert process.stdout is not None
        try:
            output = self._read_output(process, process.stdout, deadline)
        finally:
            kill_group(process)
        code = process.returncode
        if code:
            how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
            raise SensorUnavailable(f"{self._who}: ended {how}")
        return output

    def _start(self) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(
                self._argv,
                cwd=self._folder,
                env=program_environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as error:
            raise SensorUnavailable(f"{self._who}: cannot start: {error.strerror}") from None

    def _read_output(
        self, process: subprocess.Popen[bytes], pipe: IO[bytes], deadline: float
    ) -> bytes:
        os.set_blocking(pipe.fileno(), False)
        output = bytearray()
        # The end of the program counts, not the end of the pipe: a child process may keep it open.
        while True:
            is_over = has_ended(process)  # before reading, so that the output is complete
            is_open = self._drain(pipe, output)
            if is_over:
                return bytes(output)
            left = deadline - time.monotonic()
            if left <= 0:
                limit = f"{self._config.timeout_s:g} s"
                raise SensorUnavailable(f"{self._who}: did not end within {limit}, was killed")
            _wait_for_news(pipe if is_open else None, min(left, _LOOK_S))

    def _drain(self, pipe: IO[bytes], output: bytearray) -> bool:
        """Move the content of the pipe to *output*; True if more may come."""
        while True:
            try:
                data = os.read(pipe.fileno(), MAX_OUTPUT_BYTES)
            except BlockingIOError:
                return True
            output += data
            if len(output) > MAX_OUTPUT_BYTES:
                raise SensorUnavailable(f"{self._who}: printed over {MAX_OUTPUT_BYTES} bytes")
            if not data:
                return False


def parse_numbers(who: str, output: bytes) -> dict[str, float]:
    """Return the numbers of the JSON object in *output*.

    Raises SensorUnavailable for other output, and never quotes it, because it may be a reading.
    """
    if not output.strip():
        raise SensorUnavailable(f"{who}: printed nothing")
    try:
        data = msgspec.json.decode(output)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise SensorUnavailable(f"{who}: printed {len(output)} bytes that are not JSON") from None
    if not isinstance(data, dict):
        raise SensorUnavailable(f"{who}: printed JSON that is not an object")
    numbers: dict[str, float] = {}
    for place, (name, value) in enumerate(data.items(), 1):
        if type(value) not in (int, float):  # isinstance would accept true as an int
            known = repr(name[:40]) if name.isidentifier() else f"its value {place}"
            raise SensorUnavailable(f"{who}: printed an object in which {known} is not a number")
        try:
            numbers[name] = float(value)
        except OverflowError:
            raise SensorUnavailable(f"{who}: printed a number that is too large") from None
    return numbers


def _executable(name: str, folder: Path) -> str:
    """Return the program's absolute path; raises ConfigError if it is missing or not executable."""
    found = find_program(name, folder)
    if found is not None:
        return found
    where = f"{folder / name}" if "/" in name else "a folder of PATH"
    raise ConfigError(f"sensor.command: {name!r} is not an executable program, sought as {where}")


def _wait_for_news(pipe: IO[bytes] | None, seconds: float) -> None:
    """Return when the pipe has output or *seconds* have passed."""
    if pipe is None:
        time.sleep(seconds)
        return
    poll = select.poll()
    poll.register(pipe.fileno(), select.POLLIN)
    poll.poll(seconds * 1000)
