"""Captions for files: images and videos read ahead, captioned in batches, written whole."""
