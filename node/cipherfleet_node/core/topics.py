"""The MQTT topics of a fleet. Source: ARCHITECTURE section 4."""

from __future__ import annotations

ROOT = "cf/v1"


def query_topic(fleet: str, sender: str) -> str:
    """Where *sender* publishes its queries, once for all neighbours."""
    return f"{ROOT}/{fleet}/q/{sender}"


def answer_topic(fleet: str, receiver: str, sender: str) -> str:
    """Where *sender* publishes what it answers to *receiver*."""
    return f"{ROOT}/{fleet}/a/{receiver}/{sender}"


def presence_topic(fleet: str, sender: str) -> str:
    """Where *sender*'s presence is retained."""
    return f"{ROOT}/{fleet}/state/{sender}"


def health_topic(fleet: str, sender: str) -> str:
    """Where *sender* publishes figures about itself, none of them private."""
    return f"{ROOT}/{fleet}/health/{sender}"


def membership_topic(fleet: str, receiver: str) -> str:
    """Where the operator's latest word on *receiver*'s neighbours is retained."""
    return f"{ROOT}/{fleet}/members/{receiver}"


def claim_topic(fleet: str, sender: str) -> str:
    """Where *sender* claims the keys that it has made."""
    return f"{ROOT}/{fleet}/claim/{sender}"


def subscriptions(fleet: str, node: str, neighbours: list[str]) -> list[str]:
    """All that *node* listens to: its neighbours' queries and presence, answers to itself.

    And to the operator's word on who its neighbours are.
    """
    queries = [query_topic(fleet, neighbour) for neighbour in neighbours]
    presence = [presence_topic(fleet, neighbour) for neighbour in neighbours]
    own = [answer_topic(fleet, node, "+"), membership_topic(fleet, node)]
    return [*queries, *presence, *own]


def sender_of(topic: str) -> str:
    """The node that owns *topic*: in every topic of ours the last level."""
    return topic.rsplit("/", 1)[-1]
