"""Data sets: corpora, feature caches, text normalization."""
