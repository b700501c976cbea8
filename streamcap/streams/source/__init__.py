"""The thread that reads one source."""
