"""Teaching `mini` to say what it sees: tags, pseudo-captions, tag heads, calibration."""
