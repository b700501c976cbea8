"""Caption files: SubRip, WebVTT, JSON lines, HLS."""
