"""The MQTT topics of a fleet. Source: node/PROTOCOL.md#1-topics-and-access."""

from __future__ import annotations

import hashlib

ROOT = "cf/v1"
CLAIM_CLIENT = "_claim-"
MAX_CLIENT_NAME = 63  # the common name of a certificate has at most 64 characters


def query_topic(fleet: str, sender: str) -> str:
    """Return the topic of the queries of *sender*, one message for all neighbours."""
    return f"{ROOT}/{fleet}/q/{sender}"


def answer_topic(fleet: str, receiver: str, sender: str) -> str:
    """Return the topic of the answers of *sender* to *receiver*."""
    return f"{ROOT}/{fleet}/a/{receiver}/{sender}"


def presence_topic(fleet: str, sender: str) -> str:
    """Return the topic of the presence of *sender*, a retained message."""
    return f"{ROOT}/{fleet}/state/{sender}"


def health_topic(fleet: str, sender: str) -> str:
    """Return the topic of the health of *sender*, figures of which none is private."""
    return f"{ROOT}/{fleet}/health/{sender}"


def membership_topic(fleet: str, receiver: str) -> str:
    """Return the topic of the latest membership for *receiver*, a retained message."""
    return f"{ROOT}/{fleet}/members/{receiver}"


def claim_topic(fleet: str, sender: str) -> str:
    """Return the topic of the claim of *sender*: the keys that it has made itself."""
    return f"{ROOT}/{fleet}/claim/{sender}"


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
