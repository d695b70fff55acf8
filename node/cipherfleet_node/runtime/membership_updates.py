"""Membership updates while rounds go on: the operator's messages, and requests for new keys."""

from __future__ import annotations

import logging
from collections.abc import Callable, MutableMapping
from pathlib import Path

from cipherfleet_node.core import wire
from cipherfleet_node.core.events import MembershipPending
from cipherfleet_node.core.messages import OPERATOR, Claim, Membership
from cipherfleet_node.errors import WireError
from cipherfleet_node.keys.key_files import KEYS_FOLDER, read_keys
from cipherfleet_node.settings.sections import NodeConfig

from .bundle import Bundle
from .enrolment import certificate_request, make_claim, make_own_keys
from .membership import (
    NEXT,
    CheckedMembership,
    check_membership,
    read_membership,
    store_membership,
)

log = logging.getLogger(__name__)

FRESH_KEYS = f"{KEYS_FOLDER}.next"


class MembershipUpdates:
    """Store the memberships that the operator sends, and claim the keys that it requests.

    *verifiers* are those of the daemon, by sender. A pending membership adds the new identity of a
    neighbour beside the old one, and a revoked neighbour is removed.
    """

    def __init__(
        self,
        bundle: Bundle,
        verifiers: MutableMapping[str, wire.Verifier],
        reject: Callable[[str, str], None],
        publish_claim: Callable[[Claim, bytes], None],
    ) -> None:
        self._bundle, self._verifiers = bundle, verifiers
        self._reject, self._publish_claim = reject, publish_claim
        self._version = bundle.membership.version if bundle.membership else 0

    def take(self, message: Membership, payload: bytes, opened: int) -> MembershipPending | None:
        """Store a newer membership, and return its event; the rounds before it go on.

        *payload* is the message as the operator signed it. *opened* is the round of this node.
        Returns None if the membership is known, refused, or only a request for new keys.
        """
        if message.epoch <= self._version:
            if message.epoch < self._version:
                self._reject(OPERATOR, "stale_membership")
            return None  # it is retained, so it comes again with every connection
        folder, config = self._bundle.folder, self._bundle.config
        try:
            membership = check_membership(message, config)
        except WireError as error:
            self._reject(OPERATOR, error.reason)
            log.warning("dropped a membership: %s", error)
            return None
        if message.rekey:
            self._version = message.epoch
            make_own_keys(folder, config, FRESH_KEYS)
            self.claim_again()
            return None
        own = self._bundle.keys.public.fingerprint
        if message.fingerprint not in (own, _fresh_fingerprint(folder, config)):
            self._reject(OPERATOR, "membership_of_other_keys")
            return None
        store_membership(folder, payload)
        self._version = message.epoch
        log.info("the neighbours change at round %d", message.from_round)
        self._accept_both_identities(membership)
        return MembershipPending(message.from_round, self._revoke(membership, opened))

    def pending(self) -> MembershipPending | None:
        """Return the event of a membership that was stored before this start, if one is pending."""
        pending = read_membership(self._bundle.folder, self._bundle.config, NEXT)
        if pending is None:
            return None
        self._version = max(self._version, pending.version)
        self._accept_both_identities(pending)
        return MembershipPending(pending.message.from_round)

    def claim_again(self) -> None:
        """Publish the claim of new keys that the operator has requested and not yet accepted."""
        folder, config = self._bundle.folder, self._bundle.config
        if not (folder / FRESH_KEYS).exists():
            return
        fresh = make_own_keys(folder, config, FRESH_KEYS)
        request = certificate_request(folder, config, FRESH_KEYS)
        claim = make_claim(config, fresh, request, self._bundle.keys.identity)
        self._publish_claim(claim, wire.encode(claim, fresh.identity))

    def _revoke(self, membership: CheckedMembership, opened: int) -> frozenset[str]:
        """Refuse from now on the neighbours that *membership* leaves out, if it is already due."""
        if membership.message.from_round > opened:
            return frozenset()
        left_out = self._bundle.neighbours.keys() - membership.neighbours.keys()
        revoked = frozenset(left_out & self._verifiers.keys())  # not yet by another membership
        for name in revoked:  # also in the open round
            del self._verifiers[name]
            log.info("round %d: %s is not a neighbour any more", opened, name)
        return revoked

    def _accept_both_identities(self, pending: CheckedMembership) -> None:
        """Accept the old and the new identity: a neighbour may change it before this node does."""
        for name, keys in pending.neighbours.items():
            if name in self._bundle.neighbours:
                before = self._bundle.neighbours[name].identity
                self._verifiers[name] = wire.Either(before, keys.identity)


def _fresh_fingerprint(folder: Path, config: NodeConfig) -> str | None:
    if not (folder / FRESH_KEYS).exists():
        return None
    return read_keys(folder, config.crypto, FRESH_KEYS).public.fingerprint
