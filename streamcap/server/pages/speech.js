// What to say when captions come faster than they can be spoken: the newest counts, and it is made short. No browser
// object is touched here but the `synthesis` that is handed in.

const STALE_MS = 6000;
const SHORT_WORDS = 7;
const QUICK_RATE = 1.35;

// A caption cut to its beginning: at a comma or a joining word if one comes in time.
export function shorten(text) {
  const words = text.replace(/^(a|an|the) /i, "").split(" ");
  if (words.length <= SHORT_WORDS) return words.join(" ");
  const joint = words.findIndex((word, index) => index >= 2 && /^(while|with|as|and|in|on|near|behind)$/i.test(word));
  return words.slice(0, joint > 0 && joint <= SHORT_WORDS ? joint : SHORT_WORDS).join(" ").replace(/,$/, "");
}

export class Speaker {
  constructor(synthesis, makeUtterance, now = () => performance.now()) {
    this.synthesis = synthesis;
    this.makeUtterance = makeUtterance;
    this.now = now;
    this.waiting = null;
    this.speaking = false;
    this.skipped = 0;
  }

  say(text) {
    if (this.speaking) {
      if (this.waiting) this.skipped += 1;
      this.waiting = { text, at: this.now() };
      return;
    }
    this.utter(text, 1);
  }

  utter(text, rate) {
    const utterance = this.makeUtterance(text);
    utterance.rate = rate;
    this.speaking = true;
    utterance.onend = utterance.onerror = () => {
      this.speaking = false;
      const next = this.waiting;
      this.waiting = null;
      if (!next) return;
      if (this.now() - next.at > STALE_MS) this.skipped += 1;
      else this.utter(shorten(next.text), QUICK_RATE);
    };
    this.synthesis.speak(utterance);
  }
}
