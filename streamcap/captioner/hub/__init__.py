"""Captioners of transformers' own model classes."""
