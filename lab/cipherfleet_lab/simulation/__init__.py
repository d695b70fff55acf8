"""Simulations of whole fleets in one process."""
