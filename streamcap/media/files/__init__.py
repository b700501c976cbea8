"""Image and video files: opened, indexed, read frame by frame."""
