"""Scenarios that test a whole node, of any maker, by the messages that it sends."""
