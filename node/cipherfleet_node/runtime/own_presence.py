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

* The device that was there first answers: it takes an epoch just above that of the later start,
  and goes on.
* The later start hears an epoch just above its own, and ends. The number is a proof. An epoch has a
  random part, so only a device that has heard this very start can have chosen a number so close to
  it. No earlier message, repeated by a broker, carries one.

A lower epoch is of an earlier start, for example a last will that the broker publishes late.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from .epochs import is_answer


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
        if is_answer(epoch, self.epoch):
            return Conclusion.WAS_FIRST
        return Conclusion.STARTED_LATER if epoch > self.epoch else Conclusion.NOTHING_NEW
