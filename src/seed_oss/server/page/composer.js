// The field in which a message is written.

import { button, byId, element } from "./dom.js";

const SUGGESTIONS = [
  "Explain why the sky is blue, in three sentences.",
  "Write a Python function that merges two sorted lists.",
  "What should I ask before I sign a lease?",
];

/** Enter sends, Shift+Enter breaks the line; while an answer comes, there is a stop button instead. */
export class Composer {
  #field = byId("message");
  #send = byId("send");
  #stop = byId("stop");
  #actions;
  #isBusy = false;

  /** @param {{send: (text: string) => void, stop: () => void}} actions */
  constructor(actions) {
    this.#actions = actions;
    byId("composer").onsubmit = (event) => this.#submit(event);
    this.#field.oninput = () => this.#update();
    this.#field.onkeydown = (event) => this.#key(event);
    this.#stop.onclick = () => this.#stopAnswer();
    byId("suggestions").append(...SUGGESTIONS.map((text) => element("li", {}, this.#suggestion(text))));
    this.#update();
  }

  /** Puts the cursor into the field; not on a phone, whose keyboard would cover the answer. */
  focus() {
    if (matchMedia("(hover: none)").matches) {
      return;
    }
    this.#field.focus({ preventScroll: true });
  }

  /** An answer is coming, or has ended. */
  setBusy(isBusy) {
    const hadFocus = document.activeElement === this.#stop;
    this.#isBusy = isBusy;
    this.#stop.hidden = !isBusy;
    this.#send.hidden = isBusy;
    if (hadFocus) {
      this.focus();
    }
    this.#update();
  }

  #stopAnswer() {
    this.#actions.stop();
    this.focus();
  }

  #suggestion(text) {
    return button(text, () => {
      this.#field.value = text;
      this.#update();
      this.focus();
    });
  }

  #key(event) {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      byId("composer").requestSubmit();
    }
  }

  #submit(event) {
    event.preventDefault();
    const text = this.#field.value;
    if (this.#isBusy || !text.trim()) {
      return;
    }
    this.#field.value = "";
    this.#update();
    this.#actions.send(text);
  }

  #update() {
    this.#send.disabled = this.#isBusy || !this.#field.value.trim();
  }
}
