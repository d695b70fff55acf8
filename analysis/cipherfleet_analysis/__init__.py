"""Analyse a fleet before it runs: privacy, cost and convergence."""
