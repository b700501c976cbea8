"""Which packets of a source are decoded, and on what."""
