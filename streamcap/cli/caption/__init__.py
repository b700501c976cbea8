"""`streamcap caption`."""
