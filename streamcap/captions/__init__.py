"""Captions as values: what was seen and when, cues, the event feed and its subscribers, and the file formats.

Pure and synchronous; knows neither models nor pixels.
"""
