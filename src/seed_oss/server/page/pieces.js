// Pieces of Markdown as elements. What a model says gets into text nodes and nothing else.

import { button, copyFrom, element } from "./dom.js";
import { inlineParts } from "./inline.js";
import { TextFlow } from "./text_flow.js";

const MAX_LIST_DEPTH = 6;

/** Draws pieces one behind the other; lists and code are put together from several. */
export class PieceView {
  #parent;
  #lists = [];
  #code = null;
  #rows = null;
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
    if (piece.type === "row") {
      return this.#row(piece.cells);
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

  #made({ type, text, level, isContinued, language, cells }) {
    switch (type) {
      case "heading":
        return element(`h${Math.min(6, level + 2)}`, { className: `level${level}` }, ...nodes(text));
      case "rule":
        return element("hr");
      case "fence":
        return this.#fence(language);
      case "table":
        return this.#table(cells);
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

  #table(cells) {
    const head = element("tr", {}, ...cells.map((cell) => element("th", { scope: "col" }, ...nodes(cell))));
    this.#rows = element("tbody");
    const table = element("table", {}, element("thead", {}, ...(cells.length ? [head] : [])), this.#rows);
    return element("div", { className: "table", tabIndex: 0, role: "region", ariaLabel: "Table" }, table);
  }

  #row(cells) {
    const made = element("tr", {}, ...cells.map((cell) => element("td", {}, ...nodes(cell))));
    this.#rows.append(made);
    return made;
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
