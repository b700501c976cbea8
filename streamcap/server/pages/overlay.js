// Captions over a transparent page, for OBS or any browser source.

import { CaptionLines } from "./caption_lines.js";
import { doubted } from "./doubt.js";
import { Feed } from "./feed.js";
import { options } from "./overlay_options.js";
import { storeToken, takeToken } from "./service.js";
import { startSpeech } from "./voice.js";

const LOGGED_CAPTIONS = 20;
// Shorter interruptions are not reported.
const NOTICE_AFTER_MS = 1500;

// In OBS the page is part of the video: show only captions.
const inObs = "obsstudio" in window;
const by = (id) => document.getElementById(id);

document.documentElement.lang = options.lang;
const { style, dataset } = document.body;
if (options.size !== null) style.setProperty("--size", `${options.size}px`);
if (options.color !== null) style.setProperty("--ink", options.color);
if (options.background !== null) style.setProperty("--back", options.background);
dataset.vertical = options.vertical;
dataset.horizontal = options.horizontal;

const captions = new CaptionLines(by("captions"), options);

// Only one voice: while the page speaks, the live region is silent.
let speaker = null;
if (options.speak && "speechSynthesis" in window) {
  by("voice").hidden = inObs;
  speaker = startSpeech(by("voice"), options.lang, options, (on) => by("log").setAttribute("aria-live", on ? "off" : "polite"));
}

// Finals only: interim captions would be read repeatedly.
const announced = new Map();

function announce(event) {
  const { stream } = event;
  const text = doubted(event, options.doubt);
  if (!text || announced.get(stream) === text) return;
  announced.set(stream, text);
  const entry = document.createElement("p");
  entry.textContent = options.named ? `${stream}: ${text}` : text;
  by("log").append(entry);
  while (by("log").children.length > LOGGED_CAPTIONS) by("log").firstElementChild.remove();
  speaker?.say(entry.textContent);
}

let noticeTimer;

function showState(state, message) {
  clearTimeout(noticeTimer);
  if (inObs) {
    if (!["open", "connecting"].includes(state)) console.warn(`streamcap: ${message}`);
    return;
  }
  const show = () => {
    by("notice").textContent = message;
    by("notice").hidden = state === "open";
    by("ask").hidden = state !== "token";
  };
  if (state === "connecting" || state === "offline") noticeTimer = setTimeout(show, NOTICE_AFTER_MS);
  else show();
}

const feed = new Feed({
  streams: options.streams,
  token: takeToken(),
  interim: options.interim,
  onState: showState,
  on: (event) => {
    if (event.type === "caption") {
      captions.caption(event);
      if (event.is_final) announce(event);
    }
    if (event.type === "extend") captions.extend(event);
  },
});

by("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const token = by("token").value.trim();
  storeToken(token);
  feed.retry(token);
});
