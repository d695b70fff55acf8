"""Measuring what encryption costs: on this machine, on boards, in containers."""
