"""`cipherfleet watch --page`: the same reports as the table, as a page for a browser."""
