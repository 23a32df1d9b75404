// Markdown that grows, as elements. What a model says gets into text nodes and nothing else.

import { cut, finish, HARD_CHARS, initialState, mayBeFence, step } from "./blocks.js";
import { button, copyFrom, element } from "./dom.js";
import { inlineParts } from "./inline.js";
import { TextFlow } from "./text_flow.js";

const MAX_LIST_DEPTH = 6;

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

/** Draws pieces one behind the other; lists and code are put together from several. */
class PieceView {
  #parent;
  #lists = [];
  #code = null;
  #forNow = [];
  #listsBefore = null;

  constructor(parent) {
    this.#parent = parent;
  }

  show(piece) {
    if (piece.type === "item") {
      return this.#item(piece);
    }
    this.#lists = [];
    if (piece.type === "code") {
      return this.#code.append(piece.text);
    }
    return this.#block(piece);
  }

  showForNow(piece) {
    this.#listsBefore ??= [...this.#lists];
    const added = this.show(piece);
    if (added) {
      this.#forNow.push(added);
    }
  }

  /** Removes what was shown for now. */
  takeBack() {
    this.#forNow.forEach((node) => node.remove());
    this.#forNow = [];
    this.#lists = this.#listsBefore ?? this.#lists;
    this.#listsBefore = null;
  }

  #block(piece) {
    const made = this.#made(piece);
    if (made) {
      this.#parent.append(made);
    }
    return made;
  }

  #made({ type, text, level, isContinued, language }) {
    switch (type) {
      case "heading":
        return element(`h${Math.min(6, level + 2)}`, { className: `level${level}` }, ...nodes(text));
      case "rule":
        return element("hr");
      case "fence":
        return this.#fence(language);
      case "paragraph":
        return text ? element("p", { className: isContinued ? "continued" : "" }, ...nodes(text)) : null;
      default:
        return null; // the end of a fence
    }
  }

  #fence(language) {
    const text = element("code");
    const flow = (this.#code = new TextFlow(text));
    const copy = button("Copy", () => copyFrom(() => flow.text, copy), { className: "quiet", ariaLabel: "Copy code" });
    const head = element("div", { className: "code-head" }, element("span", { textContent: language }), copy);
    // Whoever has no mouse scrolls by keys, so code can be focused.
    const frame = element("pre", { tabIndex: 0, ariaLabel: language ? `Code, ${language}` : "Code" }, text);
    return element("div", { className: "code" }, head, frame);
  }

  #item(piece) {
    while (this.#lists.length > 1 && this.#lists.at(-1).indent > piece.indent) {
      this.#lists.pop();
    }
    const top = this.#lists.at(-1);
    const item = element("li", {}, ...nodes(piece.text));
    if (top && piece.indent >= top.indent + 2 && this.#lists.length < MAX_LIST_DEPTH && top.list.lastElementChild) {
      return this.#newList(piece, item, top.list.lastElementChild);
    }
    if (top && top.isOrdered === piece.isOrdered) {
      top.list.append(item);
      return item;
    }
    this.#lists.pop();
    return this.#newList(piece, item, top ? top.list.parentElement : this.#parent);
  }

  #newList({ indent, isOrdered, number }, item, parent) {
    const list = element(isOrdered ? "ol" : "ul", isOrdered ? { start: number } : {}, item);
    parent.append(list);
    this.#lists.push({ indent, isOrdered, list });
    return list;
  }
}

function nodes(text) {
  return inlineParts(text).map(node);
}

function node(part) {
  switch (part.type) {
    case "text":
      return document.createTextNode(part.text);
    case "code":
      return element("code", { textContent: part.text });
    case "link":
      return element("a", { href: part.href, textContent: part.text, rel: "noopener noreferrer", target: "_blank" });
    default:
      return element(part.type, {}, ...part.parts.map(node));
  }
}
