"""Image and video files: open, index, read frame by frame."""
