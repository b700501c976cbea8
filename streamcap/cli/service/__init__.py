"""`streamcap serve` and `streamcap node`."""
