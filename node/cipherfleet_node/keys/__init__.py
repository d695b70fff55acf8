"""Private and public keys: files, primes, fixed-base tables, obfuscators, certificates."""
