"""The MQTT topics of a fleet. Source: node/PROTOCOL.md#1-topics-and-access.

A topic tells the kind of its messages, and the node that its last level names.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

ROOT = "cf/v2"
# The third level of a topic, by the kind of its messages. Refusals come on the answers' topic.
LEVELS = {
    "query": "q",
    "answer": "a",
    "refusal": "a",
    "presence": "state",
    "health": "health",
    "membership": "members",
    "claim": "claim",
}
_KINDS = {level: kind for kind, level in reversed(LEVELS.items())}
CLAIM_CLIENT = "_claim-"
MAX_CLIENT_NAME = 63  # the common name of a certificate has at most 64 characters


def kind_of_level(kind: str) -> str:
    """Return the kind by which the topic of *kind* is named: that of the answer for a refusal."""
    return _KINDS[LEVELS[kind]]


def query_topic(fleet: str, sender: str) -> str:
    """Return the topic of the queries of *sender*, one message for all neighbours."""
    return _topic(fleet, "query", sender)


def answer_topic(fleet: str, receiver: str, sender: str) -> str:
    """Return the topic of the answers and refusals of *sender* to *receiver*."""
    return _topic(fleet, "answer", receiver, sender)


def presence_topic(fleet: str, sender: str) -> str:
    """Return the topic of the presence of *sender*, a retained message."""
    return _topic(fleet, "presence", sender)


def health_topic(fleet: str, sender: str) -> str:
    """Return the topic of the health of *sender*, figures of which none is private."""
    return _topic(fleet, "health", sender)


def membership_topic(fleet: str, receiver: str) -> str:
    """Return the topic of the latest membership for *receiver*, a retained message."""
    return _topic(fleet, "membership", receiver)


def claim_topic(fleet: str, sender: str) -> str:
    """Return the topic of the claim of *sender*: the keys that it has made itself."""
    return _topic(fleet, "claim", sender)


def claim_client(node: str) -> str:
    """Return the name of the client as which *node* claims its keys, before it is enrolled.

    Its certificate has this name. It equals no id of a node, which begins with a letter or a digit.
    """
    name = f"{CLAIM_CLIENT}{node}"
    if len(name) <= MAX_CLIENT_NAME:
        return name
    return f"_claim_{hashlib.sha256(node.encode()).hexdigest()[:32]}"


def subscriptions(fleet: str, node: str, neighbours: list[str]) -> list[str]:
    """Return the topic filters that *node* subscribes to.

    They are the queries and the presence of its neighbours, the answers to itself, its own
    presence, and the memberships that the operator sends to it.
    """
    queries = [query_topic(fleet, neighbour) for neighbour in neighbours]
    presence = [presence_topic(fleet, neighbour) for neighbour in neighbours]
    own = [
        answer_topic(fleet, node, "+"),
        presence_topic(fleet, node),
        membership_topic(fleet, node),
    ]
    return [*queries, *presence, *own]


def sender_of(topic: str) -> str:
    """Return the last level of *topic*: the node that owns it, in all our topics."""
    return topic.rsplit("/", 1)[-1]


class TopicParts(NamedTuple):
    """What a topic tells of its messages before any byte of them is read."""

    kind: str
    node: str  # the last level: the sender; of a membership, the receiver


def read_topic(topic: str, fleet: str) -> TopicParts | None:
    """Return what *topic* tells, None if it is no topic of *fleet*. Names are not checked."""
    prefix = f"{ROOT}/{fleet}/"
    if not topic.startswith(prefix):
        return None
    # At most 4 parts, however many levels a hostile broker invents.
    level, *names = topic[len(prefix) :].split("/", 3)
    kind = _KINDS.get(level)
    if kind is None or len(names) != (2 if kind == "answer" else 1):
        return None
    return TopicParts(kind, names[-1])


def _topic(fleet: str, kind: str, *names: str) -> str:
    return "/".join((ROOT, fleet, LEVELS[kind], *names))
