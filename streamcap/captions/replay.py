"""How many events of a stream are stored for replay. Apart, since the command line shows it and loads no encoder."""

REPLAY_EVENTS = 2048
"""About half an hour at one caption a second, 1 MB a stream. The JSONL has all finals."""

REPLAY_INTERIMS = 512
"""About the last minute: a client that reconnects at once misses nothing."""
