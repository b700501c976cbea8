"""WHIP, WHEP and the preview encoder."""
