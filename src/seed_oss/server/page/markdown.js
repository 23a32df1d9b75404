// Markdown that grows, from text cut anywhere to pieces on the page.

import { cut, finish, HARD_CHARS, initialState, mayBeFence, step } from "./blocks.js";
import { PieceView } from "./pieces.js";

/** Shows an answer while it comes: finished blocks stay as they are, only the open one is drawn again. */
export class MarkdownView {
  #state = initialState();
  #partial = "";
  #pieces;

  constructor(parent) {
    this.#pieces = new PieceView(parent);
  }

  /** @param {string} text cut anywhere */
  append(text) {
    this.#pieces.takeBack();
    const lines = (this.#partial + text).split("\n");
    this.#partial = lines.pop();
    lines.forEach((line) => this.#line(line.endsWith("\r") ? line.slice(0, -1) : line));
    this.#cutPartial();
    this.#showOpen();
  }

  /** Nothing follows. */
  finish() {
    this.#pieces.takeBack();
    if (this.#partial) {
      this.#line(this.#partial);
      this.#partial = "";
    }
    finish(this.#state).forEach((piece) => this.#pieces.show(piece));
    this.#state = initialState();
  }

  #line(line) {
    let rest = line;
    while (rest.length > HARD_CHARS) {
      rest = this.#cutOff(rest, HARD_CHARS);
    }
    this.#take(step(this.#state, rest));
  }

  /** Code is shown as it comes; of other lines, only what is too long is settled before its end. */
  #cutPartial() {
    while (this.#partial.length > HARD_CHARS) {
      this.#partial = this.#cutOff(this.#partial, HARD_CHARS);
    }
    const { fence } = this.#state;
    if (fence && this.#partial && (fence.isCut || !mayBeFence(this.#state, this.#partial))) {
      this.#partial = this.#cutOff(this.#partial, this.#partial.length);
    }
  }

  #cutOff(text, length) {
    const isHigh = length < text.length && (text.charCodeAt(length - 1) & 0xfc00) === 0xd800;
    const end = isHigh ? length - 1 : length;
    this.#take(cut(this.#state, text.slice(0, end)));
    return text.slice(end);
  }

  #take([state, pieces]) {
    this.#state = state;
    pieces.forEach((piece) => this.#pieces.show(piece));
  }

  /** What may still change, the beginning of a line included. */
  #showOpen() {
    if (this.#state.fence) {
      return;
    }
    const isShown = this.#partial.trim() && !mayBeFence(this.#state, this.#partial);
    const [state, pieces] = isShown ? step(this.#state, this.#partial) : [this.#state, []];
    [...pieces, ...finish(state)].forEach((piece) => this.#pieces.showForNow(piece));
  }
}
