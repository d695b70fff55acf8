"""A node is removed from a set, and from the memberships that the other nodes hold at present."""

from __future__ import annotations

from pathlib import Path

import msgspec

from cipherfleet_node.core import wire
from cipherfleet_node.core.messages import OPERATOR, GenerationsEntry, Membership, PartnerEntry
from cipherfleet_node.core.topics import membership_topic
from cipherfleet_node.errors import ConfigError, WireError
from cipherfleet_node.keys.key_files import identity_from_text, read_neighbour, seal_from_text
from cipherfleet_node.settings.node_yaml import load_node_config
from cipherfleet_node.settings.sections import Generations

from .certificates import RESTORE
from .ledger import Ledger, PublicKeyBytes, revoke_member
from .memberships import compose_updates, find_blocked, leave_out, make_content, make_entry
from .operations import (
    SIGNED_MEMBERSHIPS,
    issue_memberships,
    refresh_derived,
    remove_node_files,
)
from .sets import NODES, StagedSet


def revoke(staged: StagedSet, ledger: Ledger, name: str) -> Ledger:
    """Remove *name* from the graph, the access rules and the set.

    The remaining nodes get memberships without it that take effect at once. A node whose new
    membership has to wait for the keys of others keeps its other neighbours until then.
    """
    before, ledger = ledger, revoke_member(ledger, name)
    contents = compose_updates(ledger)
    for other in find_blocked(ledger):
        held = _read_held(staged.place, before, other)
        reduced = held and leave_out(held, name)
        if reduced is not None:
            contents[other] = reduced
    remove_node_files(staged, name)
    return refresh_derived(staged, issue_memberships(staged, ledger, contents, 0, at_once=True))


def _read_held(place: Path, ledger: Ledger, name: str) -> Membership | None:
    """Return the latest membership of *name*; None if it has none yet."""
    entry = ledger.members[name]
    if not entry.membership_digest:
        return None
    if entry.version:
        return _read_signed(place / SIGNED_MEMBERSHIPS / name, ledger, name)
    return _read_bundled(place / NODES / name, ledger, name)


def _read_signed(file: Path, ledger: Ledger, name: str) -> Membership:
    """Return the signed membership of *name* in *file*; raises ConfigError."""
    verifiers = {OPERATOR: identity_from_text(ledger.operator)}
    try:
        topic = membership_topic(ledger.fleet, name)
        message = wire.decode(file.read_bytes(), topic, ledger.fleet, verifiers)
    except (OSError, WireError) as error:
        raise ConfigError(f"{file}: cannot be used: {error}", remedy=RESTORE) from None
    assert isinstance(message, Membership)  # the only kind of message on this topic
    return message


def _read_bundled(folder: Path, ledger: Ledger, name: str) -> Membership:
    """Return the membership that the bundle *folder* of *name* contains; raises ConfigError."""
    config = load_node_config(folder)
    members = []
    for near in config.neighbours:
        public = read_neighbour(folder, near.id, near.fingerprint, ledger.key_bits)
        members.append(make_entry(near.id, near.neighbours, PublicKeyBytes.from_keys(public)))
    seals = [
        (other, seal_from_text(text).public_bytes_raw()) for other, text in config.seals.items()
    ]
    content = make_content(ledger, name, members, seals)
    if config.generations is None:
        return content
    return msgspec.structs.replace(content, generations=_read_generations(config.generations))


def _read_generations(section: Generations) -> GenerationsEntry:
    partners = [
        PartnerEntry(each.index, name, seal_from_text(each.seal).public_bytes_raw())
        for name, each in section.partners.items()
    ]
    return GenerationsEntry(
        index=section.index,
        every=section.every,
        roll_call=section.roll_call,
        averaging=section.averaging,
        mean_partners=section.mean_partners,
        members=bytes.fromhex(section.members),
        partners=partners,
    )
