// The page of all cameras.

import { Api } from "./api.js";
import { Card } from "./card.js";
import { dialog } from "./dialog.js";
import { Feed } from "./feed.js";
import { OwnCamera } from "./own_camera.js";
import { recall, remember } from "./service.js";
import { layoutWall } from "./wall.js";

const REFRESH_MS = 4000;
const TICK_MS = 1000;
const HELD_EVENTS = 2000;

const by = (id) => document.getElementById(id);
const cards = new Map();
// Events received while captions are paused; null: not paused.
let held = null;
let edited = null;

const api = new Api((message) => {
  if (!by("ask").open) openAsk({}, message);
});
const own = new OwnCamera((message) => {
  by("own-open").textContent = own.name === null ? "Use this browser’s camera" : `Stop camera “${own.name}”`;
  note(message);
});
const actions = {
  edit(view) {
    edited = view;
    by("edit-title").textContent = `Edit camera ${view.name}`;
    openEdit({ url: view.url, every: view.every });
  },
  removed: drop,
  moved: place,
};

function note(message) {
  by("note").textContent = message;
  by("note").hidden = !message;
}

function card(name) {
  let found = cards.get(name);
  if (!found) {
    found = new Card(name, by("card"), api, actions);
    cards.set(name, found);
    place(found);
    if (cards.size === 1) found.announce(true);
  }
  return found;
}

// Cameras that do not run are collapsed into a list below the others.
function place(one) {
  const parent = one.stopped ? by("failed").querySelector(".list") : by("streams");
  if (one.element.parentElement !== parent) parent.append(one.element);
  summarize();
}

function drop(name) {
  const found = cards.get(name);
  if (!found) return;
  found.close();
  const next = found.element.nextElementSibling ?? found.element.previousElementSibling;
  const hadFocus = found.element.contains(document.activeElement);
  found.element.remove();
  cards.delete(name);
  if (own.name === name) own.stop(`The stream ${name} was removed, so your camera was stopped.`);
  summarize();
  if (hadFocus) (next?.querySelector(".remove") ?? by("first-add")).focus();
}

function summarize() {
  const all = [...cards.values()];
  const stopped = all.filter((one) => one.stopped).length;
  const live = all.filter((one) => one.state === "live").length;
  const late = all.map((one) => one.lateness).filter(Boolean);
  const parts = [`${live} of ${all.length} live`, stopped ? `${stopped} not running` : ""];
  by("summary").textContent = all.length ? parts.filter(Boolean).join(" · ") : "";
  by("empty").hidden = all.length > 0 || !document.body.dataset.access;
  document.body.dataset.empty = String(all.length === 0);
  by("failed").hidden = stopped === 0;
  by("legend").hidden = live === 0;
  by("overload").hidden = late.length === 0;
  const behind = Math.round(Math.max(...late) / 1000);
  by("overload").textContent = late.length
    ? `Overloaded: captions are up to ${behind} s late on ${late.length} of ${live} cameras. ` +
      "Use fewer cameras, more seconds between captions, or a faster machine."
    : "";
  if (document.body.dataset.view === "wall") layoutWall(by("streams"));
}

async function refresh() {
  const answer = await api.fetch("streams");
  document.body.dataset.access = /\bPOST\b/.test(answer.headers.get("Allow") ?? "") ? "publish" : "view";
  const views = await answer.json();
  const names = new Set(views.map((view) => view.name));
  for (const name of [...cards.keys()]) if (!names.has(name)) drop(name);
  for (const view of views) if (!held || !cards.has(view.name)) card(view.name).show(view);
  by("model").textContent = [...new Set(views.map((view) => view.model_description))].filter(Boolean).join(" · ");
  by("model").hidden = !by("model").textContent;
  summarize();
}

const refreshQuietly = () => refresh().catch(() => {});

function apply(event) {
  const one = card(event.stream);
  if (event.type === "caption") one.caption(event);
  if (event.type === "extend") one.extend(event);
}

let feed;

function listen() {
  feed?.close();
  feed = new Feed({
    token: api.token,
    on: (event) => {
      if (event.type === "status") {
        card(event.stream).setState(event.state, event.reason);
        if (event.state === "ended") refreshQuietly();
      }
      if (event.type !== "caption" && event.type !== "extend") return;
      if (!held) apply(event);
      else if (event.type === "extend" || event.is_final) held.push(event);
      if (held?.length > HELD_EVENTS) held.shift();
    },
    onState: (state, message) => {
      by("link").dataset.open = String(state === "open");
      by("link").textContent = message;
      by("ask-open").hidden = state !== "token";
      if (state === "open") refreshQuietly();
    },
  });
}

function setPaused(paused) {
  const waiting = held ?? [];
  held = paused ? [] : null;
  by("pause").setAttribute("aria-pressed", String(paused));
  by("pause").textContent = paused ? "Resume captions" : "Pause captions";
  for (const event of waiting) if (cards.has(event.stream)) apply(event);
}

function setView(view) {
  document.body.dataset.view = view;
  by("wall").setAttribute("aria-pressed", String(view === "wall"));
  remember("view", view);
  summarize();
}

// What `POST /api/probe` found, in one sentence.
function probeText(report) {
  if (!report.usable) return `It does not work: ${report.reason}.`;
  const parts = [`${report.codec} ${report.width}×${report.height}`];
  if (report.frames_per_second) parts.push(`${report.frames_per_second} frames a second`);
  if (report.keyframe_interval) parts.push(`a keyframe every ${report.keyframe_interval} s`);
  if (report.bits_per_second) parts.push(`${(report.bits_per_second / 1e6).toFixed(1)} Mbit/s`);
  return `It works: ${parts.join(", ")}.`;
}

const number = (text) => (text ? Number(text) : null);

const openAdd = dialog(by("add"), async ({ url, name, every }) => {
  const answer = await api.send("POST", "streams", { url, name: name || null, every: number(every) });
  const view = await answer.json();
  card(view.name).show(view);
});

by("test").addEventListener("click", async () => {
  const address = by("add-url");
  if (!address.reportValidity()) return;
  const result = by("test-result");
  by("test").disabled = true;
  result.textContent = "Testing, for up to 10 seconds…";
  try {
    const answer = await api.send("POST", "api/probe", { url: address.value });
    result.textContent = probeText(await answer.json());
  } catch (error) {
    result.textContent = error.message;
  } finally {
    by("test").disabled = false;
  }
});
by("add").addEventListener("close", () => (by("test-result").textContent = ""));

const openEdit = dialog(by("edit"), async ({ url, every }) => {
  const change = {};
  if (url !== edited.url) {
    if (url.includes(":***@")) throw new Error("Type the password in the place of ***.");
    change.url = url;
  }
  if (Number(every) !== edited.every) change.every = Number(every);
  const answer = await api.send("PATCH", `streams/${encodeURIComponent(edited.name)}`, change);
  card(edited.name).show(await answer.json());
});

const openOwn = dialog(by("own"), ({ name }) => own.start(name, api.headers));

const openAsk = dialog(by("ask"), async ({ token }) => {
  api.setToken(token.trim());
  await refresh();
  listen();
});

by("add-open").addEventListener("click", () => openAdd());
by("first-add").addEventListener("click", () => openAdd());
by("own-open").addEventListener("click", () => (own.name === null ? openOwn() : own.stop()));
by("first-own").addEventListener("click", () => openOwn());
by("ask-open").addEventListener("click", () => openAsk());
by("pause").addEventListener("click", () => setPaused(!held));
by("wall").addEventListener("click", () => setView(document.body.dataset.view === "wall" ? "list" : "wall"));
addEventListener("resize", summarize);
addEventListener("pagehide", () => {
  own.stop();
  for (const one of cards.values()) one.stopWatching();
});
document.addEventListener("visibilitychange", () => {
  for (const one of cards.values()) one.tune();
});

setView(new URLSearchParams(location.search).get("view") ?? recall("view", "list"));
listen();
refresh().catch((error) => {
  by("link").textContent = error.message;
});
setInterval(() => document.hidden || by("ask").open || refreshQuietly(), REFRESH_MS);
setInterval(() => {
  if (document.hidden || held) return;
  for (const one of cards.values()) one.tick();
  summarize();
}, TICK_MS);
