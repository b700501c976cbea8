// Video over WebRTC: `watch` a stream (WHEP), `publish` a camera (WHIP). No STUN server: hosts find each other directly.

async function gathered(peer) {
  if (peer.iceGatheringState === "complete") return;
  await new Promise((resolve) => {
    const timer = setTimeout(resolve, 1500);
    peer.addEventListener("icegatheringstatechange", () => {
      if (peer.iceGatheringState !== "complete") return;
      clearTimeout(timer);
      resolve();
    });
  });
}

async function exchange(peer, address, headers) {
  await peer.setLocalDescription(await peer.createOffer());
  await gathered(peer);
  const answer = await fetch(address, {
    method: "POST",
    headers: { "Content-Type": "application/sdp", ...headers },
    body: peer.localDescription.sdp,
  });
  if (!answer.ok) {
    peer.close();
    const { detail } = await answer.json().catch(() => ({}));
    throw new Error(detail ?? `${answer.status} ${answer.statusText}`);
  }
  await peer.setRemoteDescription({ type: "answer", sdp: await answer.text() });
  const session = answer.headers.get("Location");
  return () => {
    // The connection last: told of its end first, the service would not know the session any more.
    fetch(session, { method: "DELETE", headers, keepalive: true })
      .catch(() => {})
      .finally(() => peer.close());
  };
}

// Show stream `name` in the element `video`; gives a function that ends it. `onLost` is called if it breaks.
export async function watch(name, video, headers, onLost) {
  const peer = new RTCPeerConnection();
  peer.addTransceiver("video", { direction: "recvonly" });
  peer.ontrack = ({ track }) => {
    video.srcObject = new MediaStream([track]);
  };
  peer.onconnectionstatechange = () => {
    if (["failed", "disconnected"].includes(peer.connectionState)) onLost();
  };
  const end = await exchange(peer, `/whep/${encodeURIComponent(name)}`, headers);
  return () => {
    end();
    video.srcObject = null;
  };
}

// Publish the video of `media` as stream `name`; gives a function that ends it.
export async function publish(name, media, headers) {
  const peer = new RTCPeerConnection();
  const [track] = media.getVideoTracks();
  peer.addTransceiver(track, { direction: "sendonly", streams: [media] });
  const end = await exchange(peer, `/whip/${encodeURIComponent(name)}`, headers);
  return () => {
    end();
    for (const one of media.getTracks()) one.stop();
  };
}
