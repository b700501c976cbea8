"""Captions for files: pictures and videos read ahead, captioned in batches, written whole."""
