// An answer on the page: thinking, text, tool calls, how it ended, and its figures.

import { figures } from "./answer.js";
import { CallCards } from "./call_card.js";
import { button, copyFrom, element } from "./dom.js";
import { MarkdownView } from "./markdown.js";
import { ThinkingView } from "./thinking_view.js";

const ENDINGS = new Map([
  ["length", "The answer was cut off at its limit of tokens."],
  ["stopped", "You stopped this answer."],
]);
const EMPTY = "The model said nothing.";

const KEPT = "What had come is kept. Regenerate asks for the whole answer again.";

/** Shows an answer and what is added to it, at most once for each frame of the screen. */
export class AnswerView {
  #answer;
  #thinking = new ThinkingView();
  #text = element("div", { className: "markdown" });
  #markdown = new MarkdownView(this.#text);
  #calls = new CallCards();
  #problem = element("p", { className: "problem", hidden: true });
  #figures = element("span", { className: "figures" });
  #actions = element("div", { className: "actions", hidden: true });
  #numThought = 0;
  #numSaid = 0;
  #frame = 0;

  /**
   * @param {Object} answer see answer.js
   * @param {() => void} regenerate asks for it again
   */
  constructor(answer, regenerate) {
    this.#answer = answer;
    const who = element("h2", { className: "who", textContent: "Answer" });
    this.#actions.append(...this.#buttons(regenerate));
    const foot = element("div", { className: "turn-foot" }, this.#figures, this.#actions);
    const parts = [who, this.#thinking.node, this.#text, this.#calls.node, this.#problem, foot];
    this.node = element("article", { className: "turn assistant live" }, ...parts);
  }

  /** Something was added to the answer. */
  changed(drawn) {
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      this.#draw(false);
      drawn();
    });
  }

  /** Nothing is added any more. */
  finish() {
    cancelAnimationFrame(this.#frame);
    this.#draw(true);
    this.#markdown.finish();
    this.node.classList.remove("live");
    this.#actions.hidden = false;
    this.#showEnding();
  }

  #draw(isOver) {
    const { reasoning, content, calls } = this.#answer;
    this.#thinking.append(reasoning.slice(this.#numThought));
    this.#markdown.append(content.slice(this.#numSaid));
    this.#numThought = reasoning.length;
    this.#numSaid = content.length;
    this.#calls.show(calls, isOver);
    this.#thinking.show(this.#answer, isOver);
    this.#figures.textContent = figures(this.#answer).join(" · ");
  }

  #showEnding() {
    const { problem, ended, content, reasoning, calls } = this.#answer;
    const text = problem || (ENDINGS.get(ended) ?? (content || calls.length ? "" : EMPTY));
    this.#problem.replaceChildren(text);
    this.#problem.hidden = !text;
    if (problem && (content || reasoning)) {
      this.#problem.append(element("span", { className: "hint", textContent: KEPT }));
    }
    this.#problem.classList.toggle("error", Boolean(problem));
  }

  #buttons(regenerate) {
    const copy = button("Copy", () => copyFrom(() => this.#answer.content, copy), { className: "quiet" });
    copy.ariaLabel = "Copy answer";
    return [copy, button("Regenerate", regenerate, { className: "quiet" })];
  }
}
