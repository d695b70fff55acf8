"""Private and public keys: key files, primes, fixed-base tables, obfuscators, certificates."""
