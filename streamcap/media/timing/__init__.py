"""When frames were made, and which of them are captioned."""
