"""Coverage-guided fuzzing of received bytes and of signed bodies, against a running node.

    pip install -e '.[fuzz]'
    python -m tests.tools.fuzz_atheris -max_total_time=300

The arguments are libFuzzer's. Without a folder among them the corpus lies in fuzz-corpus/, begun
with the genuine messages of a fleet; what crashes is written beside. The first byte of an input
says in its highest bit whether a pairwise or a sealed node gets the rest, in the others what it is:
an envelope, or the body of a kind, which is signed by a neighbour; the second says which neighbour.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

# Of all that is imported here for the first time, the node's own modules are instrumented.
with atheris.instrument_imports(include=["cipherfleet_node"]):
    import msgspec

    from cipherfleet_node.core.messages import OPERATOR, Membership
    from tests.tools.fuzz_frames import KINDS as TYPES
    from tests.tools.fuzz_frames import Target, make_block, topics_of

CORPUS = Path("fuzz-corpus")
KINDS = tuple(kind.KIND for kind in TYPES)
INPUTS_PER_TARGET = 2000
SEALED = 128  # in the first byte
SEED_BLOCKS = 4  # half of them sealed

targets: list[Target] = []
taken = 0


def take(data: bytes) -> None:
    """One input into the node; only what must not happen raises."""
    global taken
    if taken % INPUTS_PER_TARGET == 0 or any(target.stopped for target in targets):
        even = 2 * (taken // INPUTS_PER_TARGET)
        targets[:] = [Target(even), Target(even + 1)]  # pairwise, sealed
    taken += 1
    if len(data) < 2:
        return
    target = targets[bool(data[0] & SEALED)]
    names = sorted(target.neighbours)
    sender = names[data[1] % len(names)]
    form = data[0] % SEALED % (1 + len(KINDS))
    payload = data[2:] if form == 0 else sign(target, sender, KINDS[form - 1], data[2:])
    for topic in topics_of(sender) if form == 0 else [topics_of(sender)[form - 1]]:
        target.take(topic, payload)
    target.rest()
    if taken % 20 == 0:
        target.tick()


def sign(target: Target, sender: str, kind: str, body: bytes) -> bytes:
    """The envelope of *body* as its sender, for a membership the operator, would sign it."""
    return target.sign(OPERATOR if kind == Membership.KIND else sender, kind, body)


def write_seeds(folder: Path) -> None:
    """Genuine messages, and some that were mutated at random, as inputs."""
    folder.mkdir(exist_ok=True)
    for first, target in ((0, Target(0)), (SEALED, Target(1))):
        names = sorted(target.neighbours)
        for number, frame in enumerate(target.templates):
            form = 1 + KINDS.index(frame.message.KIND)
            sender = 0 if frame.sender == OPERATOR else names.index(frame.sender)
            body = bytes([first + form, sender]) + msgspec.msgpack.encode(frame.message)
            (folder / f"body-{first}-{number}").write_bytes(body)
            envelope = bytes([first, sender]) + frame.payload
            (folder / f"envelope-{first}-{number}").write_bytes(envelope)
    for seed in range(SEED_BLOCKS):
        first = SEALED * (seed % 2)
        for number, (_, payload, _) in enumerate(make_block(seed, 100)):
            if len(payload) < 4096:
                (folder / f"mutated-{seed}-{number}").write_bytes(bytes([first, 0]) + payload)


def main() -> None:
    """Fuzz until libFuzzer's limits are reached or something is found."""
    arguments = sys.argv[1:]
    if not any(Path(argument).is_dir() for argument in arguments):
        write_seeds(CORPUS)
        arguments = [*arguments, str(CORPUS)]
    atheris.Setup([sys.argv[0], "-max_len=4096", *arguments], take)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
