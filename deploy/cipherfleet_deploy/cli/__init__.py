"""The command line `cipherfleet`: commands, options, error texts."""
