"""Board cards: the cost of the parts of a round on one board, as a small JSON file.

A card is measured on the board itself, or estimated. BOARD_ESTIMATES has estimates for boards that
are not available: the reference card below, scaled by published figures. A measured card is more
accurate.
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
    """Paillier's operations at one key size, in ms of CPU time of one thread."""

    powmod_ms: Cost  # r^n mod n^2: a uniform obfuscator
    table_ms: Cost  # an obfuscator for a neighbour's key, from tables
    own_ms: Cost  # an obfuscator for the own key, from tables
    decrypt_ms: Cost  # one decryption by Chinese remainders
    product_ms: Cost  # a product mod n^2


class Calibration(Section, frozen=True, kw_only=True):
    """The costs of the parts of a round on one board, and the source of these figures."""

    version: Annotated[int, Meta(ge=CARD_VERSION, le=CARD_VERSION)]
    kind: Literal["measured", "estimate"]
    board: Annotated[str, Meta(min_length=1)]
    source: str  # of the figures, as text
    cores: Annotated[int, Meta(ge=1)]
    powers: dict[str, Powers]  # by key size in bits
    round_ms: Cost  # CPU of a round without large numbers and without the cost per neighbour
    neighbour_ms: Cost  # CPU per neighbour: send a message, receive two, with signatures
    broker_ms: Cost  # CPU of the broker per delivered message, if it shares the machine
    shared_use: Annotated[float, Meta(gt=0, le=1)]  # usable share of the cores if nodes share them
    save_ms: Cost  # wall-clock time to save the state, with the disk's own time
    round_trip_ms: Cost  # wall-clock time of a message and its answer through an idle broker

    def at(self, bits: int) -> Powers:
        """Return the costs at *bits*, scaled from the nearest size if the card lacks it."""
        if str(bits) in self.powers:
            return self.powers[str(bits)]
        nearest = min(self.powers, key=lambda known: abs(math.log(int(known) / bits)))
        ratio = bits / int(nearest)
        known = self.powers[nearest]
        # Schoolbook arithmetic: with twice the size a product costs 4 times, a power 8 times.
        return Powers(
            powmod_ms=known.powmod_ms * ratio**3,
            table_ms=known.table_ms * ratio**3,
            own_ms=known.own_ms * ratio**3,
            decrypt_ms=known.decrypt_ms * ratio**3,
            product_ms=known.product_ms * ratio**2,
        )


def read_calibration(file: Path) -> Calibration:
    """Read the card in *file*; raises ConfigError if it is not a valid card."""
    remedy = "write it again with cipherfleet bench calibrate, on the board itself"
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from None
    try:
        card = msgspec.json.decode(data, type=Calibration)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{file}: is not a calibration card: {error}", remedy=remedy) from None
    if not card.powers or not all(size.isdecimal() and int(size) > 0 for size in card.powers):
        found = ", ".join(map(repr, card.powers)) or "none"
        raise ConfigError(
            f"{file}: powers: has the key sizes {found}, must have one or more, such as '2048'",
            remedy=remedy,
        )
    return card


def write_calibration(file: Path, card: Calibration) -> None:
    """Write *card* as readable JSON; raises ConfigError if *file* cannot be written."""
    try:
        file.write_bytes(msgspec.json.format(msgspec.json.encode(card), indent=1) + b"\n")
    except OSError as error:
        raise ConfigError(f"{file}: cannot be written: {error.strerror}") from None


# -- profiles -----------------------------------------------------------------------------------

# Measured once on a core of an x86-64 server (AVX-512 generation of Zen), with GMP 6.3. The other
# profiles are scaled from it, and it is the profile `host` for similar machines.
REFERENCE = Calibration(
    version=CARD_VERSION,
    kind="estimate",
    board="host",
    source="an x86-64 server core, measured once; a card of this machine is more accurate",
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
# A product of large numbers takes time in proportion to its limb products, each of which takes the
# cycles of GMP's inner loop (addmul_1) divided by the clock rate. On the reference core, a power of
# 2048 bits takes 7.6 ms for 13.8 million limb products: a product and a reduction of 64 limbs for
# each bit, fewer because squares are cheaper, more because of the window.
_REFERENCE_LIMB_NS = 0.55
# Interpreted code is scaled by 7-zip's single-thread rating, assumed for the reference core as:
_REFERENCE_MIPS = 5000.0
_SOURCE = (
    "{cycles:g} cycles per limb at {ghz:g} GHz (table in GMP's mpn/arm64/aorsmul_1.asm{of}), 7-zip "
    "{mips:,.0f} MIPS per core (github.com/ThomasKaiser/sbc-bench); disk and network assumed"
)


def _estimate_board(
    board: str,
    core: str,
    *,
    cycles: float,
    ghz: float,
    mips: float,
    save_ms: float,
    network_ms: float,
) -> Calibration:
    """Scale REFERENCE: large numbers by cycles per limb and clock rate, everything else by *mips*.

    *save_ms* and *network_ms* are assumptions: the sync of an SD card, and the network's part of a
    round-trip time.
    """
    numbers, code = cycles / ghz / _REFERENCE_LIMB_NS, _REFERENCE_MIPS / mips
    base = REFERENCE
    return Calibration(
        version=CARD_VERSION,
        kind="estimate",
        board=board,
        source=_SOURCE.format(cycles=cycles, ghz=ghz, mips=mips, of=core),
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


BOARD_ESTIMATES = {
    "pi-zero-2": _estimate_board(
        "Raspberry Pi Zero 2 W", ", Cortex-A53",
        cycles=9.55, ghz=1.0, mips=3030 / 4, save_ms=20.0, network_ms=8.0,
    ),
    "pi-4": _estimate_board(
        "Raspberry Pi 4", ", Cortex-A57, the predecessor of the A72",
        cycles=7.0, ghz=1.8, mips=1769, save_ms=15.0, network_ms=1.0,
    ),
    "pi-5": _estimate_board(
        "Raspberry Pi 5", ", without an A76: assumed equal to an A57",
        cycles=7.0, ghz=2.4, mips=3200, save_ms=10.0, network_ms=1.0,
    ),
    "host": REFERENCE,
}  # fmt: skip
