// The speech controls of the page: pause, speed and voice, stored in this browser.

import { recall, remember } from "./service.js";
import { Speaker } from "./speech.js";

// `form`: the control. `onSpeaking(on)`: whether this page speaks from now on. `given`: rate and voice from the query.
export function startSpeech(form, lang, given, onSpeaking) {
  const [pause, rate, voices] = ["pause", "rate", "voices"].map((id) => form.querySelector(`#${id}`));
  const choice = { rate: 1, voice: "", paused: false, ...recall("speech", {}) };
  if (given.rate !== null) choice.rate = given.rate;
  if (given.voice !== null) choice.voice = given.voice;

  const speaker = new Speaker(
    speechSynthesis,
    (text) => {
      const utterance = new SpeechSynthesisUtterance(text);
      utterance.lang = speaker.voice?.lang ?? lang;
      return utterance;
    },
    { onBlocked: () => apply({ paused: true }, false) },
  );

  function apply(change, keep = true) {
    Object.assign(choice, change);
    if (keep) remember("speech", choice);
    speaker.rate = choice.rate;
    speaker.voice = available().find((one) => one.name === choice.voice) ?? null;
    if (speaker.paused !== choice.paused) speaker.setPaused(choice.paused);
    pause.setAttribute("aria-pressed", String(choice.paused));
    pause.textContent = choice.paused ? "Start speech" : "Pause speech";
    onSpeaking(!choice.paused);
  }

  const available = () => speechSynthesis.getVoices?.() ?? [];

  function listVoices() {
    const options = available().map((one) => new Option(`${one.name} (${one.lang})`, one.name));
    voices.replaceChildren(new Option("Default", ""), ...options);
    voices.value = choice.voice;
    if (voices.selectedIndex < 0) voices.value = "";
    apply({}, false);
  }

  rate.value = choice.rate;
  rate.addEventListener("input", () => apply({ rate: rate.valueAsNumber }));
  voices.addEventListener("change", () => apply({ voice: voices.value }));
  pause.addEventListener("click", () => apply({ paused: !choice.paused }));
  form.addEventListener("submit", (event) => event.preventDefault());
  speechSynthesis.addEventListener?.("voiceschanged", listVoices);
  listVoices();
  return speaker;
}
