"""The commands and options of `cipherfleet bench`."""
