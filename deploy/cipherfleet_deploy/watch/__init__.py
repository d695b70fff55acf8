"""`cipherfleet watch`: show the live state of a fleet from signed presence and health messages."""
