// Captions as lines on screen: one box per stream, with the largest font that fits.

import { doubted, isDoubtful } from "./doubt.js";

const FADE_MS = 300;
// The font shrinks down to this factor to fit the requested lines; then lines are added. Text is never cut.
const MIN_SCALE = 0.5;
const MIN_READABLE_PX = 16;
const STEP = 0.93;

// No line ends in an article: it stays with the word after it, as in the subtitle files.
export const keepArticles = (text) => text.replace(/(^|[\s(“"])(an?|the)\s+/gi, "$1$2\u00a0");

class Line {
  constructor(name, options) {
    this.options = options;
    this.element = document.createElement("p");
    this.element.className = "line";
    this.element.hidden = true;
    this.element.dataset.shown = "false";
    if (options.named) {
      const title = document.createElement("b");
      title.textContent = name;
      this.element.append(title);
    }
    this.text = document.createElement("span");
    this.element.append(this.text);
  }

  show(event) {
    this.id = event.id;
    this.text.textContent = keepArticles(doubted(event, this.options.doubt));
    this.element.dataset.doubt = String(this.options.doubt && isDoubtful(event));
    this.element.dataset.final = String(event.is_final);
    if (event.text) this.hold();
    else this.hide();
  }

  // The caption was confirmed: restart its hold time.
  hold() {
    clearTimeout(this.timer);
    this.element.hidden = false;
    this.element.dataset.shown = "true";
    this.timer = setTimeout(() => this.hide(), this.options.holdMs);
  }

  hide() {
    clearTimeout(this.timer);
    this.element.dataset.shown = "false";
    this.timer = setTimeout(() => {
      this.element.hidden = true;
    }, FADE_MS);
  }

  fit() {
    const { element, text } = this;
    text.style.width = "auto";
    const size = Number.parseFloat(getComputedStyle(element.parentElement).fontSize);
    const minScale = Math.max(MIN_SCALE, MIN_READABLE_PX / size);
    let scale = 1;
    let rows;
    do {
      element.style.fontSize = `${scale}em`;
      rows = this.rows();
      scale *= STEP;
    } while (rows.count > this.options.lines && scale >= minScale);
    // Balanced lines are shorter than their box: the background follows the text, not the box.
    text.style.width = `${Math.ceil(rows.width) + 1}px`;
  }

  rows() {
    const range = document.createRange();
    range.selectNodeContents(this.text);
    const boxes = [...range.getClientRects()];
    if (!boxes.length) return { count: 0, width: 0 };
    const width = Math.max(...boxes.map((one) => one.right)) - Math.min(...boxes.map((one) => one.left));
    return { count: new Set(boxes.map((one) => Math.round(one.top))).size, width };
  }
}

export class CaptionLines {
  constructor(box, options) {
    this.box = box;
    this.options = options;
    this.lines = new Map();
    addEventListener("resize", () => this.fit());
  }

  line(name) {
    let found = this.lines.get(name);
    if (!found) {
      found = new Line(name, this.options);
      this.lines.set(name, found);
      this.box.append(found.element);
    }
    return found;
  }

  caption(event) {
    this.line(event.stream).show(event);
    this.fit();
  }

  extend(event) {
    const line = this.lines.get(event.stream);
    if (line?.id !== event.id) return;
    line.hold();
    this.fit();
  }

  remove(name) {
    this.lines.get(name)?.hide();
  }

  // Fit each caption into its rows, and all captions into the height of the screen.
  fit() {
    const { paddingTop, paddingBottom } = getComputedStyle(document.body);
    const height = innerHeight - Number.parseFloat(paddingTop) - Number.parseFloat(paddingBottom);
    let scale = 1;
    do {
      document.body.style.setProperty("--fit", String(scale));
      for (const line of this.lines.values()) if (!line.element.hidden) line.fit();
      scale *= STEP;
    } while (this.box.offsetHeight > height && scale > 0.2);
  }
}
