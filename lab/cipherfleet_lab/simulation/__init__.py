"""Simulation of whole fleets in one process."""
