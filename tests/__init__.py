"""Tests, their helpers in support/ and their commands in tools/."""
