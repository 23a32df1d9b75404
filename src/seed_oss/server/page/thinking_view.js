// The thinking of an answer: folded, with how much of its budget is used.

import { thoughtTokens } from "./answer.js";
import { element, grouped } from "./dom.js";
import { TextFlow } from "./text_flow.js";

const NEAR_END_PX = 40;

/** A `details` element that appears with the first thought. */
export class ThinkingView {
  #title = element("span", { className: "thinking-title" });
  #count = element("span", { className: "thinking-count" });
  #bar = element("progress", { ariaLabel: "Thinking budget used" });
  #text = element("div", { className: "thinking-text", tabIndex: 0, role: "region", ariaLabel: "Thoughts" });
  #flow = new TextFlow(this.#text);

  constructor() {
    const summary = element("summary", {}, this.#title, this.#count, this.#bar);
    this.node = element("details", { className: "thinking", hidden: true }, summary, this.#text);
  }

  /** More of it came; who reads at its end stays there. */
  append(text) {
    const { open } = this.node;
    const { scrollTop, scrollHeight, clientHeight } = open ? this.#text : {};
    this.#flow.append(text);
    if (open && scrollHeight - scrollTop - clientHeight < NEAR_END_PX) {
      this.#text.scrollTop = this.#text.scrollHeight;
    }
  }

  /** Shows how far the thinking of an answer is. */
  show(answer, isOver) {
    this.node.hidden = !answer.reasoning;
    this.node.classList.toggle("live", !isOver && !answer.content);
    this.#title.textContent = this.#titleOf(answer, isOver);
    this.#showCount(answer);
  }

  #titleOf({ content, calls, stats }, isOver) {
    if (!isOver && !content && !calls.length) {
      return "Thinking";
    }
    const seconds = (stats.thoughtUntil - stats.firstAt) / 1000;
    return stats.thoughtUntil ? `Thought for ${seconds.toFixed(1)} s` : "Thoughts";
  }

  #showCount(answer) {
    const number = thoughtTokens(answer);
    const { budget } = answer;
    this.#bar.hidden = budget <= 0;
    this.#bar.max = Math.max(1, budget);
    this.#bar.value = Math.min(number, Math.max(1, budget));
    this.#count.textContent = budget > 0 ? `${grouped(number)} of ${grouped(budget)} tokens` : `${grouped(number)} tokens`;
  }
}
