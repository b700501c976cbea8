"""Captions, cues, the event feed with its subscriptions, and the file formats.

Pure and synchronous; no models, no pixels.
"""
