// A tool call as a card. It is shown, and never run.

import { button, copyFrom, element } from "./dom.js";
import { TextFlow } from "./text_flow.js";

/** Cards of an answer's calls, in order. */
export class CallCards {
  #cards = [];

  constructor() {
    this.node = element("div", { className: "calls" });
  }

  /** Shows calls as far as they have come; of a call that is still written, only what is new is added. */
  show(calls, isOver) {
    calls.forEach((call, index) => {
      this.#cards[index] ??= this.#add();
      this.#cards[index].show(call, isOver);
    });
  }

  #add() {
    const card = new CallCard();
    this.node.append(card.node);
    return card;
  }
}

class CallCard {
  #name = element("span", { className: "call-name" });
  #arguments = element("code");
  #flow = new TextFlow(this.#arguments);
  #length = 0;

  constructor() {
    const copy = button("Copy", () => copyFrom(() => this.#flow.text, copy), { className: "quiet" });
    copy.ariaLabel = "Copy arguments";
    const label = element("span", { className: "call-label", textContent: "Tool call" });
    const head = element("div", { className: "code-head" }, element("span", {}, label, this.#name), copy);
    this.node = element("section", { className: "call", ariaLabel: "Tool call, not run" }, head);
    this.node.append(element("pre", { tabIndex: 0, ariaLabel: "Arguments" }, this.#arguments));
  }

  show({ name, arguments: given }, isOver) {
    this.#name.textContent = name;
    this.#flow.append(given.slice(this.#length));
    this.#length = given.length;
    if (isOver) {
      this.#replace(pretty(given));
    }
  }

  #replace(text) {
    this.#arguments.replaceChildren();
    this.#flow = new TextFlow(this.#arguments);
    this.#flow.append(text);
  }
}

/** JSON with indents; what is no whole JSON stays as it is. */
function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}
