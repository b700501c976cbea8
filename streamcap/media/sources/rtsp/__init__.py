"""RTSP that libav must not connect to itself: checked addresses, redirects, SHA-256 logins."""
