"""RTSP: sessions opened by libav through a relay, and the RTP packets of H.264 and H.265."""
