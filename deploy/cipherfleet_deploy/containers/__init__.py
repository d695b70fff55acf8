"""Fleets whose nodes run in containers on this machine."""
