#!/usr/bin/python3
"""A GStreamer RTSP server that plays a pre-encoded video in a loop, as live cameras.

Run by the system's Python, where GObject lives; `camera.py` beside this file starts it. Arguments: one JSON object
with `clip` (a raw H.264 file), `index` (JSON: `rate`, and `sizes` and `keys` of its access units), `paths` (one camera
each), `port`, and optionally `user`, `password`, `digest`, `udp` (no TCP), `damage` (part of the access units that is
spoiled).

When it listens it prints `READY {"port": ..., "t0": ...}`. Every camera shows access unit `n % count` at wall time
`t0 + n / rate`, and its RTCP sender reports say so. Beside the cameras there are /live (encoded while it plays),
/audio (no video) and /broken (503).
"""

import json
import random
import signal
import sys
import threading
import time
from pathlib import Path

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtsp", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtsp, GstRtspServer  # noqa: E402

LATE_SECONDS = 0.5
AT_ONCE_NS = 1_000_000
CAPS = "video/x-h264,stream-format=byte-stream,alignment=au"
CAMERA = (
    f"( appsrc name=source is-live=true format=time do-timestamp=false caps={CAPS} "
    "! rtph264pay name=pay0 pt=96 config-interval=0 )"
)
LIVE = (
    "( videotestsrc is-live=true pattern=ball ! video/x-raw,width=640,height=360,framerate=15/1 "
    "! x264enc tune=zerolatency speed-preset=ultrafast key-int-max=15 ! h264parse "
    "! rtph264pay name=pay0 pt=96 config-interval=1 )"
)
AUDIO = "( audiotestsrc is-live=true ! audio/x-raw,rate=8000,channels=1 ! mulawenc ! rtppcmupay name=pay0 pt=0 )"
BROKEN = "( videotestsrc ! thereisnosuchelement ! rtph264pay name=pay0 pt=96 )"


def ahead_ns(clock):
    """How far `clock` is ahead of the monotonic one. A busy machine may pause this process between two readings."""
    while True:
        before = time.monotonic_ns()
        read = clock()
        after = time.monotonic_ns()
        if after - before < AT_ONCE_NS:
            return read - before


class Clip:
    """The access units and their display times."""

    def __init__(self, path, index, damage):
        data = Path(path).read_bytes()
        about = json.loads(Path(index).read_text())
        self.rate, self.keys, self.damage = about["rate"], about["keys"], damage
        self.units, at = [], 0
        for size in about["sizes"]:
            self.units.append(data[at : at + size])
            at += size
        self.t0_monotonic = time.monotonic()
        self.t0 = self.t0_monotonic + ahead_ns(time.time_ns) / 1e9

    def due(self, number):
        """Monotonic seconds."""
        return self.t0_monotonic + number / self.rate

    def next_key(self):
        """The number of the next access unit at which a decoder can start."""
        number = int((time.monotonic() - self.t0_monotonic) * self.rate) + 1
        while number % len(self.units) not in self.keys:
            number += 1
        return number

    def unit(self, number, rng):
        unit = self.units[number % len(self.units)]
        if rng.random() >= self.damage or number % len(self.units) in self.keys:
            return unit
        spoiled = bytearray(unit)
        for _ in range(1 + len(spoiled) // 50):
            spoiled[rng.randrange(len(spoiled) // 4, len(spoiled))] = rng.randrange(1, 256)
        return bytes(spoiled)


def play(source, clip, ended):
    """Push due frames until the media is closed. After a pause of the process, continue with the frames due then."""
    rng = random.Random(7)
    clock = None
    while clock is None and not ended.wait(0.002):
        clock = source.get_clock()
    number = clip.next_key()
    while not ended.is_set():
        pause = clip.due(number) - time.monotonic()
        if pause < -LATE_SECONDS:
            number = clip.next_key()
            continue
        if pause > 0 and ended.wait(pause):
            return
        base = source.get_base_time()
        running = int(clip.due(number) * 1e9) + ahead_ns(clock.get_time) - base
        if running < 0:
            # On a busy machine the pipeline may start after this was due; PTS cannot be negative.
            number = clip.next_key()
            continue
        buffer = Gst.Buffer.new_wrapped(clip.unit(number, rng))
        buffer.pts = buffer.dts = running
        buffer.duration = int(1e9 / clip.rate)
        if source.emit("push-buffer", buffer) != Gst.FlowReturn.OK:
            return
        number += 1


def on_media(_factory, media, clip):
    ended = threading.Event()
    source = media.get_element().get_by_name("source")
    thread = threading.Thread(target=play, args=(source, clip, ended), daemon=True)
    media.connect("unprepared", lambda _media: ended.set())
    thread.start()


def factory(launch, auth, udp=False):
    made = GstRtspServer.RTSPMediaFactory()
    made.set_launch(launch)
    made.set_shared(True)
    if udp:
        made.set_protocols(GstRtsp.RTSPLowerTrans.UDP)
    if auth:
        permissions = GstRtspServer.RTSPPermissions()
        permissions.add_role("viewer")
        permissions.add_permission_for_role("viewer", "media.factory.access", True)
        permissions.add_permission_for_role("viewer", "media.factory.construct", True)
        made.set_permissions(permissions)
    return made


def authentication(user, password, digest):
    auth = GstRtspServer.RTSPAuth()
    token = GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", "viewer")
    if digest:
        auth.set_supported_methods(GstRtsp.RTSPAuthMethod.DIGEST)
        auth.add_digest(user, password, token)
    else:
        auth.add_basic(GstRtspServer.RTSPAuth.make_basic(user, password), token)
    return auth


def main():
    options = json.loads(sys.argv[1])
    Gst.init(None)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(str(options["port"]))
    auth = bool(options.get("user"))
    if auth:
        server.set_auth(authentication(options["user"], options["password"], options.get("digest", False)))
    clip = Clip(options["clip"], options["index"], options.get("damage", 0.0))
    mounts = server.get_mount_points()
    for path in options["paths"]:
        camera = factory(CAMERA, auth, options.get("udp", False))
        camera.connect("media-configure", on_media, clip)
        mounts.add_factory(f"/{path}", camera)
    for path, launch in (("live", LIVE), ("audio", AUDIO), ("broken", BROKEN)):
        mounts.add_factory(f"/{path}", factory(launch, auth))
    loop = GLib.MainLoop()
    if server.attach(None) == 0:
        sys.exit(f"port {options['port']} is taken")
    for number in (signal.SIGINT, signal.SIGTERM):
        GLib.unix_signal_add(GLib.PRIORITY_DEFAULT, number, loop.quit)
    print("READY", json.dumps({"port": server.get_bound_port(), "t0": clip.t0}), flush=True)  # noqa: T201
    loop.run()


if __name__ == "__main__":
    main()
