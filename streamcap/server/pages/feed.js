// The caption feed over a websocket that resumes after a lost connection. Independent of the pages.

import { address, authorization, errorText } from "./service.js";

const FIRST_PAUSE_MS = 500;
const MAX_PAUSE_MS = 15_000;
// A single refusal may come from a service that is starting.
const REFUSALS_BEFORE_RESET = 2;

export class Feed {
  // `streams`: names, or none for all. `on(event)` gets every event. `onState(state, message)`: "connecting", "open", or
  // why there is no connection: "offline", "starting", "token" (missing or wrong), "unknown" (no such stream), "refused".
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
    this.onState("connecting", "Connecting");
    this.connect();
  }

  url() {
    const url = address("captions");
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    if (this.streams.length) url.searchParams.set("stream", this.streams.join(","));
    if (!this.interim) url.searchParams.set("interim", "0");
    if (this.token) url.searchParams.set("token", this.token);
    const since = [...this.seen].map(([name, seq]) => `${name}:${seq}`).join(",");
    if (since) url.searchParams.set("since", since);
    return url;
  }

  connect() {
    const socket = new WebSocket(this.url());
    this.socket = socket;
    let opened = false;
    socket.onopen = () => {
      opened = true;
      this.pause = FIRST_PAUSE_MS;
      this.refusals = 0;
      this.onState("open", "Connected");
    };
    socket.onmessage = ({ data }) => {
      const event = JSON.parse(data);
      if (event.seq !== undefined) this.seen.set(event.stream, event.seq);
      this.on(event);
    };
    socket.onclose = async ({ code, reason }) => {
      if (this.closed || socket !== this.socket) return;
      this.pause = Math.min(MAX_PAUSE_MS, this.pause * 1.8);
      this.timer = setTimeout(() => this.connect(), this.pause * (0.5 + Math.random()));
      if (code === 4404) this.seen.clear();
      if (opened && reason) {
        this.onState(code === 4404 ? "unknown" : "offline", sentence(reason));
        return;
      }
      const found = await this.diagnose(opened);
      if (!this.closed && socket === this.socket) this.onState(...found);
    };
  }

  // Browsers hide why a websocket was refused; ask over HTTP. A service that is ready but refuses again no longer has the
  // requested streams or numbers: start without them.
  async diagnose(opened) {
    let answer;
    try {
      answer = await fetch(address("streams"), { cache: "no-store", headers: authorization(this.token) });
    } catch {
      return ["offline", "Connection lost. Reconnecting."];
    }
    if (answer.status === 401) {
      return ["token", this.token ? "This token is not accepted." : "This service needs a token."];
    }
    if (answer.status === 502 || answer.status === 503 || answer.status === 504) {
      return ["starting", "The service is not ready yet. Retrying."];
    }
    if (!answer.ok) return ["refused", sentence(await errorText(answer))];
    if (!opened) this.refusals += 1;
    if (this.refusals >= REFUSALS_BEFORE_RESET) this.seen.clear();
    const names = new Set((await answer.json()).map((view) => view.name));
    const missing = this.streams.filter((name) => !names.has(name));
    if (missing.length) return ["unknown", `There is no stream named ${missing.join(", ")}.`];
    return ["connecting", "Reconnecting"];
  }

  // Connect now, with `token`.
  retry(token) {
    this.token = token;
    clearTimeout(this.timer);
    this.socket.close();
    this.onState("connecting", "Connecting");
    this.connect();
  }

  close() {
    this.closed = true;
    clearTimeout(this.timer);
    this.socket.close();
  }
}

function sentence(text) {
  return `${text[0].toUpperCase()}${text.slice(1).replace(/\.$/, "")}.`;
}
