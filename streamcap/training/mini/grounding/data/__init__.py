"""Images, tags and captions that grounding learns from."""
