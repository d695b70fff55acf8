"""What to expect of a fleet before it runs: privacy, cost, convergence."""
