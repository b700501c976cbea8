"""Sources over HTTP: MJPEG, snapshots, HLS renditions."""
