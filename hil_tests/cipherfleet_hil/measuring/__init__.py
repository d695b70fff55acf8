"""Measuring: crypto cases, rounds, calibration cards, parameter studies."""
