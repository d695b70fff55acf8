"""What a fleet costs: bytes and time per round."""
