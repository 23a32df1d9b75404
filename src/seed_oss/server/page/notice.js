// One line at the top for what the user must know.

import { byId } from "./dom.js";

/** Shows a notice until it is closed or replaced. */
export class Notice {
  #box = byId("notice");

  constructor() {
    byId("close-notice").onclick = () => this.hide();
  }

  show(text) {
    byId("notice-text").textContent = text;
    this.#box.hidden = false;
  }

  hide() {
    this.#box.hidden = true;
  }
}
