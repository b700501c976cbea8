// One camera on the page: video, caption, state and actions.

import { doubted, isDoubtful } from "./doubt.js";
import { address } from "./service.js";
import { watch } from "./video.js";

const PAST_CAPTIONS = 60;
const STAGES = ["ingest", "queue", "encode", "decode"];
const SHOWS_DOUBT = new URLSearchParams(location.search).get("doubt") !== "0";
// A caption that nothing has confirmed for this long may no longer be true.
const OLD_SECONDS = 5;
const OLD_INTERVALS = 3;
const WATCH_AGAIN_MS = 30_000;

function clock(seconds) {
  const whole = Math.floor(seconds);
  const parts = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  return parts.map((part) => String(part).padStart(2, "0")).join(":");
}

function duration(ms) {
  if (ms < 1000) return `${ms.toFixed(0)} ms`;
  return ms < 10_000 ? `${(ms / 1000).toFixed(1)} s` : wholeSeconds(ms / 1000);
}

function interval({ every, effective_every: now }) {
  return now > every ? `every ${Number(now.toPrecision(2))} s, not ${every} s` : `every ${every} s`;
}

function wholeSeconds(seconds) {
  if (seconds < 120) return `${Math.floor(seconds)} s`;
  return seconds < 7200 ? `${Math.floor(seconds / 60)} min` : `${Math.floor(seconds / 3600)} h`;
}

export class Card {
  // `api`: calls to the service. `actions`: what the page does for a card: edit(view), removed(name), moved().
  constructor(name, template, api, actions) {
    Object.assign(this, { name, api, actions, path: `streams/${encodeURIComponent(name)}` });
    this.element = template.content.firstElementChild.cloneNode(true);
    const find = (selector) => this.element.querySelector(selector);
    const names = ["video", "nothing", "caption", "state", "late", "latency", "bar", "reason", "wrong", "address", "age"];
    this.parts = Object.fromEntries(
      [...names, "numbers", "announced", "past"].map((part) => [part, find(part === "video" ? part : `.${part}`)]),
    );
    const title = find("h2");
    title.textContent = title.title = name;
    title.id = `stream-${name}`;
    this.element.dataset.stream = name;
    this.element.setAttribute("aria-labelledby", title.id);
    this.parts.past.setAttribute("aria-label", `Captions of ${name} so far`);
    find(".overlay").href = address(`overlay?stream=${encodeURIComponent(name)}`);
    for (const format of ["srt", "vtt"]) {
      find(`.${format}`).href = address(`${this.path}/captions.${format}`);
      find(`.${format}`).addEventListener("click", (event) => this.download(event, format));
    }
    const labels = { announce: "Announce captions of", overlay: "Overlay of", srt: "SRT of", vtt: "VTT of" };
    Object.assign(labels, { again: "Try again:", edit: "Edit", remove: "Remove" });
    for (const [act, text] of Object.entries(labels)) find(`.${act}`).setAttribute("aria-label", `${text} ${name}`);
    this.announceButton = find(".announce");
    this.announceButton.addEventListener("click", () => this.announce(!this.announces));
    find(".again").addEventListener("click", () => this.attempt(() => this.api.send("PATCH", this.path, {})));
    find(".edit").addEventListener("click", () => this.actions.edit(this.view));
    find(".remove").addEventListener("click", () => this.remove());
    this.visible = false;
    this.watching = null;
    this.watchAfter = 0;
    this.observer = new IntersectionObserver(([entry]) => {
      this.visible = entry.isIntersecting;
      this.tune();
    });
    this.observer.observe(this.element);
    this.parts.video.addEventListener("playing", () => {
      this.parts.nothing.hidden = true;
    });
  }

  get stopped() {
    return this.state === "failed" || this.state === "ended";
  }

  // Milliseconds by which the service says that it is late on this camera; 0 if that is not much.
  get lateness() {
    return this.state === "live" && this.view?.late ? 1000 * this.view.lag : 0;
  }

  announce(on) {
    this.announces = on;
    this.announceButton.setAttribute("aria-pressed", String(on));
    this.parts.announced.setAttribute("aria-live", on ? "polite" : "off");
  }

  // Video is requested while the card can be seen and its stream is live.
  async tune() {
    const wanted = this.visible && !document.hidden && ["live", "stalled"].includes(this.state) && !this.gone;
    if (!wanted) {
      this.stopWatching();
      return;
    }
    if (this.watching || performance.now() < this.watchAfter) return;
    const lost = () => {
      this.stopWatching();
      setTimeout(() => this.tune(), 2000);
    };
    const attempt = watch(this.name, this.parts.video, this.api.headers, lost);
    this.watching = attempt;
    try {
      await attempt;
    } catch (error) {
      // The service has no free WHEP session: show captions without video.
      this.parts.nothing.textContent = error.status === 503 ? "captions only" : error.message;
      this.parts.nothing.title = error.message;
      this.watchAfter = performance.now() + WATCH_AGAIN_MS;
      if (this.watching === attempt) this.watching = null;
    }
  }

  stopWatching() {
    this.watching?.then((end) => end()).catch(() => {});
    this.watching = null;
    this.parts.nothing.hidden = false;
  }

  setState(state, reason) {
    const moved = state !== this.state;
    this.state = state;
    this.parts.state.textContent = state;
    this.element.dataset.state = this.parts.state.dataset.state = state;
    this.parts.reason.textContent = this.parts.reason.title = reason;
    this.parts.nothing.textContent = state === "live" ? "no picture yet" : state;
    if (moved) this.watchAfter = 0;
    this.tune();
    if (moved) this.actions.moved(this);
  }

  // A stream as `GET /streams` lists it.
  show(view) {
    this.view = view;
    if (view.state !== this.state || view.reason !== this.parts.reason.textContent) {
      this.setState(view.state, view.reason);
    }
    this.tune();
    const size = view.width ? `${view.width} × ${view.height}` : "";
    this.parts.address.textContent = this.parts.address.title = view.url;
    this.parts.numbers.textContent = [size, interval(view), `${view.captions} captions`].filter(Boolean).join(" · ");
    this.parts.numbers.title = `${view.extended} times the image had not changed; ${view.samples_missed} moments without a frame`;
    const last = view.last_caption;
    if (!last) return;
    if (!this.parts.caption.textContent) {
      this.caption({ ...last, is_final: true });
      // Not new: valid when its last frame was captured.
      this.freshAt = performance.now() - Math.max(0, Date.now() - Date.parse(last.captured_at) - 1000 * (last.end - last.start));
    }
    // The feed omits captions that are too old.
    this.total = last.latency_ms.total;
    this.tick();
  }

  // Upsert by id: interim revisions change the caption in place until the final.
  caption(event) {
    const { caption, past, announced } = this.parts;
    const said = doubted(event, SHOWS_DOUBT);
    caption.textContent = said;
    caption.dataset.final = String(event.is_final);
    caption.dataset.doubt = String(SHOWS_DOUBT && isDoubtful(event));
    if (!event.is_final) return;
    announced.textContent = said;
    this.id = event.id;
    this.freshAt = performance.now() - event.latency_ms.total;
    if (past.firstElementChild?.dataset.id !== event.id) {
      const line = document.createElement("li");
      line.dataset.id = event.id;
      const time = document.createElement("time");
      time.textContent = clock(event.start);
      time.dateTime = `PT${event.start}S`;
      const text = document.createElement("span");
      text.textContent = said;
      line.append(time, text);
      past.prepend(line);
      while (past.children.length > PAST_CAPTIONS) past.lastElementChild.remove();
    }
    this.latency(event.latency_ms);
    this.tick();
  }

  // The caption was confirmed.
  extend(event) {
    if (event.id === this.id) this.freshAt = performance.now() - this.total;
    this.tick();
  }

  latency(stages) {
    const { latency, bar } = this.parts;
    this.total = stages.total;
    latency.textContent = duration(stages.total);
    latency.title = STAGES.map((stage) => `${stage} ${stages[stage].toFixed(1)} ms`).join(", ");
    const whole = STAGES.reduce((sum, stage) => sum + stages[stage], 0) || 1;
    for (const stage of STAGES) bar.querySelector(`.${stage}`).style.width = `${(100 * stages[stage]) / whole}%`;
    bar.setAttribute("aria-label", `Latency of ${this.name}: ${latency.title}`);
  }

  // Update what depends only on the time.
  tick() {
    this.parts.late.textContent = this.lateness ? `${duration(this.lateness)} behind` : "";
    if (this.freshAt === undefined) return;
    const seconds = (performance.now() - this.freshAt) / 1000;
    this.parts.caption.dataset.old = String(seconds > Math.max(OLD_SECONDS, OLD_INTERVALS * (this.view?.every ?? 1)));
    this.parts.age.textContent = seconds < 2 ? "caption up to date" : `caption ${wholeSeconds(seconds)} old`;
  }

  async attempt(act) {
    this.parts.wrong.textContent = "";
    try {
      await act();
    } catch (error) {
      this.parts.wrong.textContent = error.message;
    }
  }

  remove() {
    if (!confirm(`Remove the camera ${this.name}? Its caption files stay.`)) return;
    this.attempt(async () => {
      await this.api.send("DELETE", this.path);
      this.actions.removed(this.name);
    });
  }

  download(event, format) {
    if (!this.api.token) return;
    // A link cannot carry the token in a header.
    event.preventDefault();
    this.attempt(async () => {
      const answer = await this.api.fetch(`${this.path}/captions.${format}`);
      const link = document.createElement("a");
      link.href = URL.createObjectURL(await answer.blob());
      link.download = `${this.name}.${format}`;
      link.click();
      URL.revokeObjectURL(link.href);
    });
  }

  close() {
    this.gone = true;
    this.stopWatching();
    this.observer.disconnect();
  }
}
