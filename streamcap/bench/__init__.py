"""Measurements of the captioner's parts beside what others offer and beside the machine's own limit.

Decode and encode need torch, transformers and numpy alone.
"""
