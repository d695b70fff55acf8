"""Attacks on the lab's systems: what each adversary infers from what it receives."""
