"""The service: each stream's life from its source to its files, and the set of streams. Knows no torch, no HTTP."""
