"""The measurement harness: the cost of encryption on this machine, on boards, in containers."""
