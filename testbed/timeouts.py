"""How long a test waits for a state that must come."""

TIMEOUT_FACTOR = 240
"""Seconds. Processors may be lent to others for most of the time: only what fails takes so long."""
