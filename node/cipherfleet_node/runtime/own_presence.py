"""What a node concludes from its own presence, as the broker delivers it.

Every node subscribes to `state/<self>`, which the broker retains. The messages there are signed
with the node's own key, so only this device and copies of its card can have made them. A guess from
the number of short connections is not needed: epochs are the proof.

**Before the node has sent anything.** An epoch above that of the saved state belongs to a start
that the saved state does not know: the state was lost, or is an old copy, or another device runs.
The node takes an epoch above it, and does not continue the saved rounds.

**Afterwards.** An epoch above the node's own belongs to a device that was started later, from a
copy of the card. Two devices with one identity end each other's connection, so each of them hears
what the broker has retained of the other one, and rarely a live message. Exactly one has to end:

* The node that was there first answers the later start with exactly its epoch + 1, and goes on.
* The later start hears its own epoch + 1 and ends. The number is a proof: it is above an epoch with
  random bits, so only a device that has heard this very start can have chosen it. No earlier
  message, repeated by a broker, can carry it. `epochs.new_epoch` never returns it.

A lower epoch is of an earlier start, for example a last will that the broker publishes late.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Conclusion(Enum):
    """What a message on the node's own presence topic shows."""

    NOTHING_NEW = "this start or an earlier one of this device has sent it"
    STATE_IS_OLD = "the saved state does not know the latest start"
    STARTED_LATER = "another device has this identity, and was started later"
    WAS_FIRST = "another device has this identity, was there first, and has answered"


@dataclass
class OwnPresence:
    """The epochs of one start of a node."""

    saved: int  # the epoch in the saved state; 0 without a state
    epoch: int  # of this start
    has_spoken: bool = False  # a message with this epoch may have been sent

    def judge(self, epoch: int) -> Conclusion:
        """Return what a presence of this node with *epoch* shows."""
        if not self.has_spoken:
            is_unknown = epoch > self.saved and epoch != self.epoch
            return Conclusion.STATE_IS_OLD if is_unknown else Conclusion.NOTHING_NEW
        if epoch == self.epoch + 1:
            return Conclusion.WAS_FIRST
        return Conclusion.STARTED_LATER if epoch > self.epoch else Conclusion.NOTHING_NEW
