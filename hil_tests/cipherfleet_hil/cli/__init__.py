"""`cipherfleet bench`: its commands and options."""
