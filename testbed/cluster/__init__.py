"""Nodes of a cluster, and a judge of what they stored and sent."""
