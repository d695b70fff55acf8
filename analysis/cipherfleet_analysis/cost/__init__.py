"""Predict the cost of a fleet: bytes and time per round."""
