// The caption feed over a websocket that takes up where it broke off. Knows nothing of any page.

const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 15_000;

// The page's token: taken out of the address, so that it is not shared with a copied link, and kept for this tab.
export function takeToken() {
  const address = new URL(location.href);
  const token = address.searchParams.get("token");
  if (token !== null) {
    sessionStorage.setItem("token", token);
    address.searchParams.delete("token");
    history.replaceState(null, "", address);
  }
  return sessionStorage.getItem("token") ?? "";
}

export class Feed {
  // `streams`: names, or none for all. `on(event)` gets every event; `onState(text)`: "connecting", "open" or why not.
  constructor({ streams = [], interim = true, token = "", on, onState = () => {} }) {
    this.streams = streams;
    this.interim = interim;
    this.token = token;
    this.on = on;
    this.onState = onState;
    this.seen = new Map();
    this.pause = FIRST_PAUSE_MS;
    this.closed = false;
    this.connect();
  }

  address() {
    const url = new URL("/captions", location.href);
    url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
    if (this.streams.length) url.searchParams.set("stream", this.streams.join(","));
    if (!this.interim) url.searchParams.set("interim", "0");
    if (this.token) url.searchParams.set("token", this.token);
    const since = [...this.seen].map(([name, seq]) => `${name}:${seq}`).join(",");
    if (since) url.searchParams.set("since", since);
    return url;
  }

  connect() {
    this.onState("connecting");
    const socket = new WebSocket(this.address());
    this.socket = socket;
    let opened = false;
    socket.onopen = () => {
      opened = true;
      this.pause = FIRST_PAUSE_MS;
      this.onState("open");
    };
    socket.onmessage = ({ data }) => {
      const event = JSON.parse(data);
      if (event.seq !== undefined) this.seen.set(event.stream, event.seq);
      this.on(event);
    };
    socket.onclose = ({ code, reason }) => {
      if (this.closed) return;
      // Refused before it opened: what was seen may be of streams that are gone, or of an earlier run. Begin anew.
      if (!opened || code === 4404) this.seen.clear();
      this.onState(reason || "reconnecting");
      this.pause = Math.min(LONGEST_PAUSE_MS, this.pause * 1.8);
      setTimeout(() => this.closed || this.connect(), this.pause * (0.5 + Math.random()));
    };
  }

  close() {
    this.closed = true;
    this.socket.close();
  }
}
