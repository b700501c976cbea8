"""RTSP cameras and servers."""
