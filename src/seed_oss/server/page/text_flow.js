// Plain text that grows, in parts: a browser lays out again only the part that changed.

import { element } from "./dom.js";

const SOFT_CHARS = 4000; // past this, a part ends with its line
const HARD_CHARS = 16000; // past this, a line is cut

/** Appends text to an element whose style keeps white space. */
export class TextFlow {
  #parent;
  #tail = null;
  text = "";

  constructor(parent) {
    this.#parent = parent;
  }

  /** @param {string} text cut anywhere, but not within a character */
  append(text) {
    this.text += text;
    for (let rest = text; rest; ) {
      this.#tail ??= this.#newPart();
      const [end, next] = this.#cut(rest);
      this.#tail.appendData(rest.slice(0, end));
      rest = rest.slice(next);
      if (next > end || this.#tail.length >= HARD_CHARS - 1) {
        this.#tail = null;
      }
    }
  }

  /** Where what fits into the open part ends, and where the next one begins: behind the newline, if that ends it. */
  #cut(text) {
    const { length } = this.#tail;
    const newline = text.indexOf("\n", Math.max(0, SOFT_CHARS - length));
    const room = HARD_CHARS - length;
    if (newline >= 0 && newline <= room) {
      return [newline, newline + 1];
    }
    const isHigh = (text.charCodeAt(room - 1) & 0xfc00) === 0xd800;
    const end = text.length <= room ? text.length : room - (isHigh ? 1 : 0);
    return [end, end];
  }

  #newPart() {
    const tail = document.createTextNode("");
    this.#parent.append(element("div", { className: "part" }, tail));
    return tail;
  }
}
