#!/usr/bin/python3
"""An RTSP camera that another process starts, kills and starts again, each time as another one.

Run by the system's Python, where GObject lives. Arguments: the port, and the codec: h264 or jpeg. Its path is
/live. Prints READY when it listens, on all addresses.
"""

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402

ENCODERS = {
    "h264": (
        "video/x-raw,width=320,height=240,framerate=10/1 "
        "! x264enc tune=zerolatency speed-preset=ultrafast key-int-max=10 bitrate=300 "
        "! rtph264pay name=pay0 pt=96 config-interval=1"
    ),
    # Without the format, it is one that RTP cannot carry as JPEG, and no video comes.
    "jpeg": (
        "video/x-raw,format=I420,width=240,height=160,framerate=5/1 ! jpegenc quality=50 ! rtpjpegpay name=pay0 pt=26"
    ),
}


def main() -> None:
    port, codec = sys.argv[1:]
    Gst.init(None)
    server = GstRtspServer.RTSPServer()
    server.set_address("0.0.0.0")
    server.set_service(port)
    media = GstRtspServer.RTSPMediaFactory()
    media.set_launch(f"( videotestsrc is-live=true pattern=ball ! {ENCODERS[codec]} )")
    media.set_shared(True)
    server.get_mount_points().add_factory("/live", media)
    if not server.attach(None):
        sys.exit(f"port {port} is taken")
    sys.stdout.write("READY\n")
    sys.stdout.flush()
    GLib.MainLoop().run()


if __name__ == "__main__":
    main()
