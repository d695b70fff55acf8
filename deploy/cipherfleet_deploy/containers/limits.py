"""Limits on the CPU time and memory that a container may use of this machine.

CPU quotas do not emulate a slower processor: they leave its speed, caches and memory bandwidth
unchanged. A figure measured under a quota is an emulated figure, not that of a device, and every
output says so.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from cipherfleet_node.errors import ConfigError

MIB = 2**20
MIN_CPU, MIN_MEMORY = 0.05, 64 * MIB  # with less, a node does not start
_UNITS = {"": 1, "k": 2**10, "m": MIB, "g": 2**30}


@dataclass(frozen=True)
class Profile:
    """The limits of one container."""

    name: str
    cpu: float  # share of one core of this machine
    memory: int  # bytes

    def __str__(self) -> str:
        return (
            f"{self.name}, emulated: {self.cpu:g} CPU and {self.memory // MIB} MiB of this machine"
        )


# The memory is that of the smallest model of the board. The CPU time is a rough share of a
# server's core.
LIMITS = {
    profile.name: profile
    for profile in (
        Profile("pi-zero-2", 0.2, 512 * MIB),
        Profile("pi-4", 0.5, 1024 * MIB),
        Profile("pi-5", 1.0, 2048 * MIB),
    )
}


def read_profile(text: str) -> Profile:
    """Return the profile for a text such as 'pi-4' or 'cpu=0.5,memory=256m'.

    Raises ConfigError for any other text, and for limits under which a node does not start.
    """
    if text in LIMITS:
        return LIMITS[text]
    found = re.fullmatch(r"cpu=(\d+(?:\.\d+)?),memory=(\d+)([kmg]?)", text.strip().lower())
    if found is None:
        raise ConfigError(
            f"the profile is {text!r}, must be one of {', '.join(LIMITS)}, or "
            "cpu=CORES,memory=SIZE, for example cpu=0.5,memory=256m"
        )
    profile = Profile("custom", float(found[1]), int(found[2]) * _UNITS[found[3]])
    if profile.cpu < MIN_CPU or profile.memory < MIN_MEMORY:
        raise ConfigError(
            f"the profile is {text!r}: a node needs at least {MIN_CPU:g} CPU and "
            f"{MIN_MEMORY // MIB} MiB"
        )
    return profile
