// The caption feed over a websocket that takes up where it broke off. Knows nothing of any page.

const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 15_000;
// One may have met a service that was just coming up.
const REFUSALS_TO_BEGIN_ANEW = 2;

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
    this.refusals = 0;
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
      this.refusals = 0;
      this.onState("open");
    };
    socket.onmessage = ({ data }) => {
      const event = JSON.parse(data);
      if (event.seq !== undefined) this.seen.set(event.stream, event.seq);
      this.on(event);
    };
    socket.onclose = ({ code, reason }) => {
      if (this.closed) return;
      if (code === 4404) this.seen.clear();
      if (!opened) this.judge();
      this.onState(reason || "reconnecting");
      this.pause = Math.min(LONGEST_PAUSE_MS, this.pause * 1.8);
      setTimeout(() => this.closed || this.connect(), this.pause * (0.5 + Math.random()));
    };
  }

  // Not opened. A service that is there and ready refuses what was asked for: streams that are gone, or numbers of an
  // earlier run; then begin anew. One that is away, or not ready yet, is asked for the same when it is back.
  async judge() {
    const ready = await fetch("/readyz", { cache: "no-store" }).then(
      (answer) => answer.ok,
      () => false,
    );
    this.refusals = ready ? this.refusals + 1 : 0;
    if (this.refusals >= REFUSALS_TO_BEGIN_ANEW) this.seen.clear();
  }

  close() {
    this.closed = true;
    this.socket.close();
  }
}
