// What the user said, and how it is changed.

import { button, element } from "./dom.js";

/** A turn of the user. */
export class UserView {
  #turn;
  #onEdit;
  #text = element("div", { className: "said" });
  #edit = button("Edit", () => this.#open(), { className: "quiet", ariaLabel: "Edit this message" });
  #form = null;

  /**
   * @param {Object} turn {role: "user", content}
   * @param {(text: string) => void} onEdit goes on from the changed text
   */
  constructor(turn, onEdit) {
    this.#turn = turn;
    this.#onEdit = onEdit;
    this.#text.textContent = turn.content;
    const who = element("h2", { className: "who", textContent: "You" });
    const actions = element("div", { className: "actions" }, this.#edit);
    this.node = element("article", { className: "turn user" }, who, this.#text, element("div", { className: "turn-foot" }, actions));
  }

  #open() {
    const field = element("textarea", { value: this.#turn.content, rows: 3, ariaLabel: "Changed message" });
    field.onkeydown = (event) => this.#key(event, field);
    const cancel = button("Cancel", () => this.#close());
    const send = button("Send", () => this.#send(field), { className: "primary" });
    const hint = element("span", { className: "hint", textContent: "What came after it is replaced." });
    this.#form = element("div", { className: "edit" }, field, element("div", { className: "dialog-foot" }, hint, cancel, send));
    this.#text.hidden = this.#edit.hidden = true;
    this.#text.after(this.#form);
    field.focus();
  }

  #key(event, field) {
    if (event.key === "Escape") {
      event.stopPropagation();
      this.#close();
    } else if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      this.#send(field);
    }
  }

  #close() {
    this.#form.remove();
    this.#text.hidden = this.#edit.hidden = false;
    this.#edit.focus();
  }

  #send(field) {
    if (field.value.trim()) {
      this.#onEdit(field.value);
    }
  }
}
