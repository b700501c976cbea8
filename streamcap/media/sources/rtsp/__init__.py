"""RTSP: sessions opened by libav through a gate, and the RTP packets of H.264 and H.265."""
