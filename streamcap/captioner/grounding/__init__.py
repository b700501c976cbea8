"""Saying only what is seen: object words that the tags of an image deny, confidence, and short sentences."""
