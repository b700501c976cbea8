"""Frames: where they come from, how they are kept, chosen and converted. Knows no models, captions or HTTP."""
