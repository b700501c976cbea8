"""A stream's events in JetStream."""
