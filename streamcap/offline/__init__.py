"""Captions for image and video files, decoded ahead and captioned in batches."""
