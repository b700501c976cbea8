// Video over WebRTC: `watch` a stream (WHEP), `publish` a camera (WHIP). No STUN server: hosts find each other directly.

import { address, errorText } from "./service.js";

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

async function exchange(peer, path, headers) {
  await peer.setLocalDescription(await peer.createOffer());
  await gathered(peer);
  const answer = await fetch(address(path), {
    method: "POST",
    headers: { "Content-Type": "application/sdp", ...headers },
    body: peer.localDescription.sdp,
  });
  if (!answer.ok) {
    peer.close();
    throw Object.assign(new Error(await errorText(answer)), { status: answer.status });
  }
  await peer.setRemoteDescription({ type: "answer", sdp: await answer.text() });
  // Its last part alone: the service may not know the path that a proxy serves it under.
  const session = address(`${path}/${answer.headers.get("Location").split("/").pop()}`);
  return () => {
    // Close the connection last: the service removes a session whose connection has ended.
    fetch(session, { method: "DELETE", headers, keepalive: true })
      .catch(() => {})
      .finally(() => peer.close());
  };
}

// Show stream `name` in the element `video`; returns a function that stops it. `onLost` is called when the connection is lost.
export async function watch(name, video, headers, onLost) {
  const peer = new RTCPeerConnection();
  peer.addTransceiver("video", { direction: "recvonly" });
  peer.ontrack = ({ track }) => {
    video.srcObject = new MediaStream([track]);
  };
  peer.onconnectionstatechange = () => {
    if (["failed", "disconnected"].includes(peer.connectionState)) onLost();
  };
  const end = await exchange(peer, `whep/${encodeURIComponent(name)}`, headers);
  return () => {
    end();
    video.srcObject = null;
  };
}

// Publish the video of `media` as stream `name`; returns a function that stops it. `onLost` is called when the connection is lost.
export async function publish(name, media, headers, onLost) {
  const peer = new RTCPeerConnection();
  peer.onconnectionstatechange = () => {
    if (peer.connectionState === "failed") onLost();
  };
  const [track] = media.getVideoTracks();
  peer.addTransceiver(track, { direction: "sendonly", streams: [media] });
  const end = await exchange(peer, `whip/${encodeURIComponent(name)}`, headers);
  return () => {
    end();
    for (const one of media.getTracks()) one.stop();
  };
}
