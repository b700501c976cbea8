"""Streams: each stream from its source to its caption files, and the set of all streams. No torch, no HTTP."""
