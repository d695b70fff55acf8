"""Ratios of times of one encrypted exchange and of other Paillier libraries, from one process."""
