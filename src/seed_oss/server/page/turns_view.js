// The turns of a conversation, and where in them the reader is.

import { AnswerView } from "./answer_view.js";
import { byId } from "./dom.js";
import { UserView } from "./user_view.js";

const NEAR_END_PX = 80;

/** Shows turns; it follows the newest text unless the reader has gone up. */
export class TurnsView {
  #scroller = byId("scroller");
  #turns = byId("turns");
  #toEnd = byId("to-end");
  #actions;
  #follows = true;

  /** @param {{edit: (index, text) => void, regenerate: (index) => void}} actions */
  constructor(actions) {
    this.#actions = actions;
    this.#scroller.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    this.#toEnd.onclick = () => this.goToEnd();
  }

  /** Shows a conversation's turns from the beginning. What was said long ago is not read aloud. */
  showAll(turns) {
    this.#turns.ariaLive = "off";
    requestAnimationFrame(() => (this.#turns.ariaLive = "polite"));
    this.#turns.replaceChildren();
    turns.forEach((turn, index) => this.add(turn, index).finish?.());
    byId("empty").hidden = turns.length > 0;
    this.goToEnd();
  }

  /** Drops every turn from this one on. */
  cutAt(index) {
    [...this.#turns.children].slice(index).forEach((node) => node.remove());
  }

  /** Shows one more turn, and gives its view. */
  add(turn, index) {
    const view =
      turn.role === "user"
        ? new UserView(turn, (text) => this.#actions.edit(index, text))
        : new AnswerView(turn, () => this.#actions.regenerate(index));
    this.#turns.append(view.node);
    byId("empty").hidden = true;
    return view;
  }

  /** While an answer comes it is not read aloud piece by piece, but once it is whole. */
  setBusy(isBusy) {
    this.#turns.ariaBusy = String(isBusy);
    document.body.classList.toggle("busy", isBusy);
  }

  /** Text was added. */
  grown() {
    if (this.#follows) {
      this.#scroller.scrollTop = this.#scroller.scrollHeight;
    }
  }

  goToEnd() {
    this.#follows = true;
    this.#toEnd.hidden = true;
    this.grown();
  }

  #scrolled() {
    const { scrollTop, scrollHeight, clientHeight } = this.#scroller;
    this.#follows = scrollHeight - scrollTop - clientHeight < NEAR_END_PX;
    this.#toEnd.hidden = this.#follows;
  }
}
