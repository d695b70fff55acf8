"""The processors that a guest can have: how QEMU emulates a machine with each of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Processor:
    """A processor with its machine. None has firmware: QEMU itself loads the kernel."""

    architecture: str  # as Debian calls it
    emulator: Sequence[str]  # QEMU with its machine and processor
    package: str  # of Debian, with the emulator
    console: str  # the kernel's name of the first serial port
    power_button: str  # the command of QEMU's monitor that presses it
    devices: Sequence[str] = ()  # arguments of QEMU that the power button needs
    options: str = ""  # of the kernel


AMD64 = Processor(
    architecture="amd64",
    emulator=("qemu-system-x86_64", "-M", "pc", "-cpu", "max"),
    package="qemu-system-x86",
    console="ttyS0",
    power_button="system_powerdown",
    # It counts the interrupts of a moment, and panics if a busy machine delivers too few.
    options="no_timer_check",
)
# The processor of a Raspberry Pi 4. Debian's cloud kernel has no driver for the power button of
# the machine `virt`, so the guest has a keyboard with a power key.
ARM64 = Processor(
    architecture="arm64",
    emulator=("qemu-system-aarch64", "-M", "virt", "-cpu", "cortex-a72"),
    package="qemu-system-arm",
    console="ttyAMA0",
    power_button="sendkey power",
    devices=("-device", "virtio-keyboard-pci"),
)
PROCESSORS = {each.architecture: each for each in (AMD64, ARM64)}
