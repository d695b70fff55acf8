"""`cipherfleet watch`: the live state of a fleet, from signed health messages."""
