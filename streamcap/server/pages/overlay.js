// Captions over nothing, for OBS or any browser source. Everything is set by the query; see the project's docs/overlay.md.

import { Feed, takeToken } from "./feed.js";
import { Speaker } from "./speech.js";

const token = takeToken();
const query = new URLSearchParams(location.search);
const box = document.getElementById("captions");
const streams = query.getAll("stream").flatMap((value) => value.split(",")).filter(Boolean);

function number(name, fallback, least, most) {
  const value = Number.parseFloat(query.get(name));
  return Number.isFinite(value) ? Math.min(most, Math.max(least, value)) : fallback;
}

function flag(name, fallback) {
  const value = query.get(name);
  return value === null ? fallback : !["0", "false", "no", "off"].includes(value);
}

function colour(name, property) {
  const value = query.get(name);
  if (value === null) return;
  const given = /^([0-9a-f]{3,4}|[0-9a-f]{6}|[0-9a-f]{8})$/i.test(value) ? `#${value}` : value;
  if (CSS.supports("color", given)) document.body.style.setProperty(property, given);
}

const holdMs = 1000 * number("hold", 5, 0.5, 3600);
const named = flag("name", streams.length !== 1);
const interim = flag("interim", true);
if (query.has("size")) document.body.style.setProperty("--size", `${number("size", 40, 8, 400)}px`);
document.body.style.setProperty("--lines", String(Math.round(number("lines", 2, 1, 10))));
colour("color", "--ink");
colour("background", "--back");
const place = (query.get("position") ?? "bottom").split("-");
document.body.dataset.vertical = ["top", "middle", "bottom"].find((one) => place.includes(one)) ?? "bottom";
document.body.dataset.horizontal = ["left", "right", "center"].find((one) => place.includes(one)) ?? "center";

const speaker =
  flag("speak", false) && "speechSynthesis" in window
    ? new Speaker(speechSynthesis, (text) => {
        const utterance = new SpeechSynthesisUtterance(text);
        utterance.lang = query.get("lang") ?? "en";
        return utterance;
      })
    : null;

const lines = new Map();

class Line {
  constructor(name) {
    this.element = document.createElement("p");
    this.element.className = "line";
    if (named) {
      const title = document.createElement("b");
      title.textContent = name;
      this.element.append(title);
    }
    this.text = document.createElement("span");
    // Only finals are told to a screen reader: interim words would be read over and over.
    this.told = document.createElement("span");
    this.told.setAttribute("role", "status");
    this.told.setAttribute("aria-live", "polite");
    this.told.style.cssText = "position:absolute;width:1px;height:1px;clip-path:inset(50%)";
    this.text.setAttribute("aria-hidden", "true");
    this.element.append(this.text);
    box.append(this.element);
    document.body.append(this.told);
    this.element.dataset.shown = "false";
  }

  show(event) {
    this.id = event.id;
    this.text.textContent = event.text;
    this.fit();
    this.element.dataset.shown = String(event.text !== "");
    this.element.dataset.final = String(event.is_final);
    if (event.is_final && this.told.textContent !== event.text) {
      this.told.textContent = event.text;
      speaker?.say(event.text);
    }
    this.hold();
  }

  // Balanced lines are shorter than their box: the background hugs the text, not the box.
  fit() {
    this.text.style.width = "auto";
    const range = document.createRange();
    range.selectNodeContents(this.text);
    const lines = [...range.getClientRects()];
    if (!lines.length) return;
    const width = Math.max(...lines.map((one) => one.right)) - Math.min(...lines.map((one) => one.left));
    this.text.style.width = `${Math.ceil(width) + 1}px`;
  }

  hold() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      this.element.dataset.shown = "false";
    }, holdMs);
  }
}

function line(name) {
  if (!lines.has(name)) lines.set(name, new Line(name));
  return lines.get(name);
}

new Feed({
  streams,
  token,
  interim,
  on: (event) => {
    if (event.type === "caption") line(event.stream).show(event);
    // Still true: it stays on screen.
    if (event.type === "extend" && line(event.stream).id === event.id) {
      line(event.stream).element.dataset.shown = "true";
      line(event.stream).hold();
    }
  },
});
