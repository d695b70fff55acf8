"""What the parts of a round cost on a board: a small JSON card, measured there or estimated.

A card measured on the very board is worth more than any profile. Profiles are estimates, for
boards that nobody has at hand: the reference card below, slowed down by published figures.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from cipherfleet_node.errors import ConfigError
from cipherfleet_node.settings.sections import Section

CARD_VERSION = 1
Cost = Annotated[float, Meta(ge=0, le=1e6)]  # milliseconds


class Powers(Section, frozen=True):
    """Paillier's operations at one key size, ms of CPU time of one thread."""

    powmod_ms: Cost  # r^n mod n^2: a uniform obfuscator
    table_ms: Cost  # an obfuscator for a neighbour's key, from its tables
    own_ms: Cost  # one for the own key, from its tables
    decrypt_ms: Cost  # one decryption by Chinese remainders
    product_ms: Cost  # a product mod n^2


class Calibration(Section, frozen=True):
    """What one board needs for the parts of a round, and how that is known."""

    version: Annotated[int, Meta(ge=CARD_VERSION, le=CARD_VERSION)]
    kind: Literal["measured", "estimate"]
    board: Annotated[str, Meta(min_length=1)]
    source: str  # of the figures, for people
    cores: Annotated[int, Meta(ge=1)]
    powers: dict[str, Powers]  # by key size in bits
    round_ms: Cost  # CPU of a round, but for large numbers and what each neighbour costs
    neighbour_ms: Cost  # CPU for each neighbour: a message sent, two received, signatures included
    broker_ms: Cost  # CPU of the broker for a message delivered, where it shares the machine
    shared_use: Annotated[float, Meta(gt=0, le=1)]  # of the cores, by a fleet that shares them
    save_ms: Cost  # wall clock: the state to the disk, the disk's own time included
    round_trip_ms: Cost  # wall clock: a message there and one back, through an idle broker

    def at(self, bits: int) -> Powers:
        """The operations at *bits*, from the nearest size of the card if that is missing."""
        if str(bits) in self.powers:
            return self.powers[str(bits)]
        nearest = min(self.powers, key=lambda known: abs(math.log(int(known) / bits)))
        ratio = bits / int(nearest)
        known = self.powers[nearest]
        # Operations on numbers of twice the size: a product 4 times, a power 8 times, schoolbook.
        return Powers(
            powmod_ms=known.powmod_ms * ratio**3,
            table_ms=known.table_ms * ratio**3,
            own_ms=known.own_ms * ratio**3,
            decrypt_ms=known.decrypt_ms * ratio**3,
            product_ms=known.product_ms * ratio**2,
        )


def read_calibration(file: Path) -> Calibration:
    """The card in *file*; raises ConfigError for what is none."""
    cure = "write it anew with write_calibration, on the board itself"
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from None
    try:
        card = msgspec.json.decode(data, type=Calibration)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{file}: is no calibration card: {error}; {cure}") from None
    if not card.powers or not all(size.isdecimal() and int(size) > 0 for size in card.powers):
        found = ", ".join(map(repr, card.powers)) or "none"
        raise ConfigError(
            f"{file}: powers: has the key sizes {found}, must have one or more, such as '2048'; "
            f"{cure}"
        )
    return card


def write_calibration(file: Path, card: Calibration) -> None:
    """Write *card* as readable JSON; raises ConfigError where that cannot be."""
    try:
        file.write_bytes(msgspec.json.format(msgspec.json.encode(card), indent=1) + b"\n")
    except OSError as error:
        raise ConfigError(f"{file}: cannot be written: {error.strerror}") from None


# -- profiles -----------------------------------------------------------------------------------

# Measured once on a core of an x86-64 server (AVX-512 generation of Zen), with GMP 6.3: the base
# that profiles are ratios to, and the profile `host` of machines like it.
REFERENCE = Calibration(
    version=CARD_VERSION,
    kind="estimate",
    board="host",
    source="an x86-64 server core, measured once; write this machine's own card for better",
    cores=2,
    powers={
        "2048": Powers(
            powmod_ms=7.6, table_ms=1.13, own_ms=0.39, decrypt_ms=2.1, product_ms=0.0035
        ),
        "3072": Powers(
            powmod_ms=24.5, table_ms=2.95, own_ms=0.99, decrypt_ms=6.5, product_ms=0.0065
        ),
    },
    round_ms=1.2,
    neighbour_ms=0.6,
    broker_ms=0.15,
    shared_use=0.8,
    save_ms=1.2,
    round_trip_ms=0.7,
)
# A product of large numbers takes time in proportion to its limb products: cycles of GMP's inner
# loop (addmul_1) over the clock. The reference: 13.8 million limb products in a power of 2048 bits
# (a product and a reduction of 64 limbs for each bit, less what squaring spares, more for the
# window) take 7.6 ms.
_REFERENCE_LIMB_NS = 0.55
# Interpreted code is compared by 7-zip's single-thread rating; the reference core is taken for:
_REFERENCE_MIPS = 5000.0
_SOURCE = (
    "{cycles:g} cycles per limb at {ghz:g} GHz (table in GMP's mpn/arm64/aorsmul_1.asm{of}), 7-zip "
    "{mips:,.0f} MIPS per core (github.com/ThomasKaiser/sbc-bench); disk and network assumed"
)


def _profile(
    board: str,
    cycles: float,
    ghz: float,
    mips: float,
    save_ms: float,
    network_ms: float,
    of: str = "",
) -> Calibration:
    """REFERENCE, slowed down: numbers by cycles per limb and clock, the rest by *mips*.

    *save_ms* and *network_ms* are assumptions: an SD card's sync, and a round trip's time in the
    air or on the wire.
    """
    numbers, code = cycles / ghz / _REFERENCE_LIMB_NS, _REFERENCE_MIPS / mips
    base = REFERENCE
    return Calibration(
        version=CARD_VERSION,
        kind="estimate",
        board=board,
        source=_SOURCE.format(cycles=cycles, ghz=ghz, mips=mips, of=of),
        cores=4,
        powers={
            size: Powers(
                **{name: numbers * ms for name, ms in msgspec.structs.asdict(known).items()}
            )
            for size, known in base.powers.items()
        },
        round_ms=code * base.round_ms,
        neighbour_ms=code * base.neighbour_ms,
        broker_ms=code * base.broker_ms,
        shared_use=base.shared_use,
        save_ms=save_ms,
        round_trip_ms=network_ms + code * base.round_trip_ms,
    )


PROFILES = {
    "pi-zero-2": _profile("Raspberry Pi Zero 2 W", 9.55, 1.0, 3030 / 4, 20.0, 8.0, ", Cortex-A53"),
    "pi-4": _profile(
        "Raspberry Pi 4", 7.0, 1.8, 1769, 15.0, 1.0, ", Cortex-A57, whose line the A72 continues"
    ),
    "pi-5": _profile(
        "Raspberry Pi 5", 7.0, 2.4, 3200, 10.0, 1.0, ", which lacks the A76: taken for an A57"
    ),
    "host": REFERENCE,
}
