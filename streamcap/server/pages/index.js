import { Feed } from "./feed.js";
import { authorization, storeToken, takeToken } from "./service.js";
import { publish, watch } from "./video.js";

const REFRESH_MS = 4000;
const PAST_CAPTIONS = 60;
const PARTS = ["ingest", "queue", "encode", "decode"];

let token = takeToken();
let feed;
const cards = new Map();
const by = (id) => document.getElementById(id);
const headers = () => authorization(token);

async function call(path, options = {}) {
  const answer = await fetch(path, { ...options, headers: { ...headers(), ...options.headers } });
  if (answer.status === 401) ask();
  if (!answer.ok) {
    const { detail } = await answer.json().catch(() => ({}));
    throw new Error(detail ?? `${answer.status} ${answer.statusText}`);
  }
  return answer.status === 204 ? null : answer.json();
}

function clock(seconds) {
  const whole = Math.floor(seconds);
  const parts = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  return parts.map((part) => String(part).padStart(2, "0")).join(":");
}

class Card {
  constructor(name) {
    this.name = name;
    this.element = by("card").content.firstElementChild.cloneNode(true);
    const find = (selector) => this.element.querySelector(selector);
    this.parts = {
      video: find("video"),
      nothing: find(".nothing"),
      caption: find(".caption"),
      state: find(".state"),
      latency: find(".latency"),
      reason: find(".reason"),
      address: find(".address"),
      counts: find(".counts"),
      announced: find(".announced"),
      past: find(".past"),
    };
    const title = find("h2");
    title.textContent = name;
    title.id = `stream-${name}`;
    this.element.dataset.stream = name;
    this.element.setAttribute("aria-labelledby", title.id);
    const address = `/streams/${encodeURIComponent(name)}`;
    find(".overlay").href = `/overlay?stream=${encodeURIComponent(name)}`;
    find(".srt").addEventListener("click", (event) => download(event, `${address}/captions.srt`, `${name}.srt`));
    find(".vtt").addEventListener("click", (event) => download(event, `${address}/captions.vtt`, `${name}.vtt`));
    find(".srt").href = `${address}/captions.srt`;
    find(".vtt").href = `${address}/captions.vtt`;
    for (const [act, text] of [["overlay", "Overlay of"], ["srt", "SRT of"], ["vtt", "VTT of"], ["remove", "Remove"]]) {
      find(`.${act}`).setAttribute("aria-label", `${text} ${name}`);
    }
    find(".remove").addEventListener("click", () => this.remove(address));
    const announce = find(".announce");
    announce.setAttribute("aria-label", `Announce captions of ${name}`);
    announce.addEventListener("click", () => this.announce(announce.getAttribute("aria-pressed") !== "true"));
    this.announceButton = announce;
    this.visible = false;
    this.watching = null;
    this.observer = new IntersectionObserver(([entry]) => {
      this.visible = entry.isIntersecting;
      this.tune();
    });
    this.observer.observe(this.element);
    this.parts.video.addEventListener("playing", () => {
      this.parts.nothing.hidden = true;
    });
  }

  announce(on) {
    this.announceButton.setAttribute("aria-pressed", String(on));
    this.parts.announced.setAttribute("aria-live", on ? "polite" : "off");
  }

  // Video is asked for while the card can be seen and its stream is live.
  async tune() {
    const wanted = this.visible && !document.hidden && ["live", "stalled"].includes(this.state) && !this.gone;
    if (!wanted) {
      this.stopWatching();
      return;
    }
    if (this.watching) return;
    const lost = () => {
      this.stopWatching();
      setTimeout(() => this.tune(), 2000);
    };
    const attempt = watch(this.name, this.parts.video, headers(), lost);
    this.watching = attempt;
    try {
      await attempt;
    } catch (error) {
      this.parts.nothing.textContent = error.message;
      if (this.watching === attempt) this.watching = null;
    }
  }

  stopWatching() {
    this.watching?.then((end) => end()).catch(() => {});
    this.watching = null;
    this.parts.nothing.hidden = false;
  }

  setState(state, reason) {
    this.state = state;
    this.parts.state.textContent = state;
    this.parts.state.dataset.state = state;
    this.parts.reason.textContent = this.parts.reason.title = reason;
    this.tune();
  }

  show(view) {
    if (view.state !== this.state || view.reason !== this.parts.reason.textContent) {
      this.setState(view.state, view.reason);
    }
    this.tune();
    const size = view.width ? `${view.width} × ${view.height}` : "";
    const counts = `${view.captions} captions, ${view.extended} unchanged`;
    this.parts.address.textContent = this.parts.address.title = view.url;
    this.parts.counts.textContent = [size, `every ${view.every} s`, counts].filter(Boolean).join(" · ");
    if (view.last_caption && !this.parts.caption.textContent) this.caption({ ...view.last_caption, is_final: true });
  }

  // Upsert by id: interim revisions change the line in place, the final settles it.
  caption(event) {
    const { caption, past, announced, latency } = this.parts;
    caption.textContent = event.text;
    caption.dataset.final = String(event.is_final);
    if (!event.is_final) return;
    announced.textContent = event.text;
    if (past.firstElementChild?.dataset.id !== event.id) {
      const line = document.createElement("li");
      line.dataset.id = event.id;
      const time = document.createElement("time");
      time.textContent = clock(event.start);
      time.dateTime = `PT${event.start}S`;
      const text = document.createElement("span");
      text.textContent = event.text;
      line.append(time, text);
      past.prepend(line);
      while (past.children.length > PAST_CAPTIONS) past.lastElementChild.remove();
    }
    const parts = event.latency_ms;
    latency.textContent = `${parts.total.toFixed(0)} ms`;
    latency.title = PARTS.map((part) => `${part} ${parts[part].toFixed(1)} ms`).join(", ");
    const whole = PARTS.reduce((sum, part) => sum + parts[part], 0) || 1;
    for (const part of PARTS) {
      this.element.querySelector(`.bar .${part}`).style.width = `${(100 * parts[part]) / whole}%`;
    }
    this.element.querySelector(".bar").setAttribute("aria-label", `latency: ${latency.title}`);
  }

  async remove(address) {
    if (!confirm(`Remove the stream ${this.name}?`)) return;
    try {
      await call(address, { method: "DELETE" });
      drop(this.name);
    } catch (error) {
      this.parts.reason.textContent = error.message;
    }
  }
}

async function download(event, address, name) {
  if (!token) return;
  // A link cannot carry the token in a header.
  event.preventDefault();
  const answer = await fetch(address, { headers: headers() });
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await answer.blob());
  link.download = name;
  link.click();
  URL.revokeObjectURL(link.href);
}

function card(name) {
  let found = cards.get(name);
  if (!found) {
    found = new Card(name);
    cards.set(name, found);
    by("streams").append(found.element);
    if (cards.size === 1) found.announce(true);
  }
  by("empty").hidden = true;
  return found;
}

function drop(name) {
  const found = cards.get(name);
  if (!found) return;
  found.gone = true;
  found.stopWatching();
  found.observer.disconnect();
  const next = found.element.nextElementSibling ?? found.element.previousElementSibling;
  const hadFocus = found.element.contains(document.activeElement);
  found.element.remove();
  cards.delete(name);
  by("empty").hidden = cards.size > 0;
  if (hadFocus) (next?.querySelector(".remove") ?? by("add-open")).focus();
}

async function refresh() {
  const views = await call("/streams");
  const names = new Set(views.map((view) => view.name));
  for (const name of [...cards.keys()]) if (!names.has(name)) drop(name);
  for (const view of views) card(view.name).show(view);
  by("empty").hidden = cards.size > 0;
}

function listen() {
  feed?.close();
  feed = new Feed({
    token,
    on: (event) => {
      if (event.type === "status") card(event.stream).setState(event.state, event.reason);
      if (event.type === "caption") card(event.stream).caption(event);
    },
    onState: (state, message) => {
      by("link").dataset.open = String(state === "open");
      by("link").textContent = message;
    },
  });
}

// A dialog whose form does `act` with its fields, and shows what went wrong.
function dialog(id, act) {
  const element = by(id);
  const wrong = element.querySelector(".wrong");
  element.querySelector("[value=cancel]")?.addEventListener("click", () => element.close());
  element.querySelector("form").addEventListener("submit", async (event) => {
    event.preventDefault();
    const button = element.querySelector("button.main");
    wrong.textContent = "";
    button.disabled = true;
    try {
      await act(Object.fromEntries(new FormData(event.target)));
      element.close();
    } catch (error) {
      wrong.textContent = error.message;
    } finally {
      button.disabled = false;
    }
  });
  return () => {
    wrong.textContent = "";
    if (!element.open) element.showModal();
  };
}

async function addCamera({ url, name, every }) {
  const body = { url, name: name || null, every: every ? Number(every) : null };
  const view = await call("/streams", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });
  card(view.name).show(view);
  by("add").querySelector("form").reset();
}

let endOwn = null;

async function useOwnCamera({ name }) {
  if (!navigator.mediaDevices) throw new Error("the browser lends its camera only over https or on localhost");
  const media = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 1280 } } });
  let end;
  try {
    end = await publish(name, media, headers());
  } catch (error) {
    for (const track of media.getTracks()) track.stop();
    throw error;
  }
  endOwn = () => {
    end();
    endOwn = null;
    by("own-open").textContent = "Use this browser’s camera";
  };
  by("own-open").textContent = `Stop camera “${name}”`;
}

const ask = dialog("ask", async (fields) => {
  token = fields.token;
  storeToken(token);
  await refresh();
  listen();
});
by("add-open").addEventListener("click", dialog("add", addCamera));
const openOwn = dialog("own", useOwnCamera);
by("own-open").addEventListener("click", () => (endOwn ? endOwn() : openOwn()));
addEventListener("pagehide", () => {
  endOwn?.();
  for (const one of cards.values()) one.stopWatching();
});
document.addEventListener("visibilitychange", () => {
  for (const one of cards.values()) one.tune();
});

listen();
refresh().catch((error) => {
  by("link").textContent = error.message;
});
setInterval(() => document.hidden || by("ask").open || refresh().catch(() => {}), REFRESH_MS);
