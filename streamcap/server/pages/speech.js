// Speaks captions that arrive faster than they can be spoken: the newest one waits and is shortened. Uses no browser
// object except the given `synthesis`.

const STALE_MS = 6000;
const SHORT_WORDS = 7;
const CATCH_UP_RATE = 1.35;

// The beginning of a caption: up to a comma or a joining word if one comes early enough.
export function shorten(text) {
  const words = text.replace(/^(a|an|the) /i, "").split(" ");
  if (words.length <= SHORT_WORDS) return words.join(" ");
  const joint = words.findIndex((word, index) => index >= 2 && /^(while|with|as|and|in|on|near|behind)$/i.test(word));
  return words.slice(0, joint > 0 && joint <= SHORT_WORDS ? joint : SHORT_WORDS).join(" ").replace(/,$/, "");
}

export class Speaker {
  // `onBlocked()`: the browser refuses to speak before the visitor has clicked on the page.
  constructor(synthesis, makeUtterance, { now = () => performance.now(), onBlocked = () => {} } = {}) {
    this.synthesis = synthesis;
    this.makeUtterance = makeUtterance;
    this.now = now;
    this.onBlocked = onBlocked;
    this.rate = 1;
    this.voice = null;
    this.paused = false;
    this.waiting = null;
    this.current = null;
    this.skipped = 0;
  }

  say(text) {
    if (this.paused) return;
    if (this.current) {
      if (this.waiting) this.skipped += 1;
      this.waiting = { text, at: this.now() };
      return;
    }
    this.utter(text, this.rate);
  }

  // Pausing stops speech at once and drops the waiting caption.
  setPaused(paused) {
    this.paused = paused;
    if (!paused) return;
    this.current = this.waiting = null;
    this.synthesis.cancel();
  }

  utter(text, rate) {
    const utterance = this.makeUtterance(text);
    utterance.rate = rate;
    if (this.voice) utterance.voice = this.voice;
    this.current = utterance;
    utterance.onend = () => this.next(utterance);
    utterance.onerror = (event) => {
      if (event?.error === "not-allowed") this.onBlocked();
      this.next(utterance);
    };
    this.synthesis.speak(utterance);
  }

  next(utterance) {
    if (utterance !== this.current) return; // cancelled
    const next = this.waiting;
    this.current = this.waiting = null;
    if (!next || this.paused) return;
    if (this.now() - next.at > STALE_MS) this.skipped += 1;
    else this.utter(shorten(next.text), this.rate * CATCH_UP_RATE);
  }
}
