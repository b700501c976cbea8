"""Connections, requests and their limits."""
