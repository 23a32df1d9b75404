// The list of conversations.

import { button, byId, element } from "./dom.js";

/** Shows conversations by title; on a narrow screen it lies over the page. */
export class Sidebar {
  #sidebar = byId("sidebar");
  #list = byId("conversations");
  #opener = byId("open-sidebar");
  #actions;

  /** @param {{open: (id) => void, remove: (conversation) => void}} actions */
  constructor(actions) {
    this.#actions = actions;
    this.#opener.onclick = () => this.setOpen(true);
    byId("close-sidebar").onclick = () => this.setOpen(false);
    byId("scrim").onclick = () => this.setOpen(false);
    this.#sidebar.addEventListener("keydown", (event) => event.key === "Escape" && this.setOpen(false));
  }

  /** Shows these, with one of them as the open one. */
  show(conversations, openId) {
    this.#list.replaceChildren(...conversations.map((one) => this.#row(one, one.id === openId)));
  }

  /** Only a narrow screen has it closed at all. */
  setOpen(isOpen) {
    const wasOpen = this.#sidebar.classList.contains("open");
    this.#sidebar.classList.toggle("open", isOpen);
    byId("scrim").hidden = !isOpen;
    this.#opener.ariaExpanded = String(isOpen);
    if (isOpen) {
      byId("close-sidebar").focus();
    } else if (wasOpen) {
      this.#opener.focus();
    }
  }

  #row(conversation, isOpen) {
    const title = conversation.title || "Untitled";
    const open = button(title, () => this.#actions.open(conversation.id), { className: "open", title });
    if (isOpen) {
      open.ariaCurrent = "page";
    }
    const remove = button("×", () => this.#actions.remove(conversation), { className: "icon remove" });
    remove.ariaLabel = `Delete ${title}`;
    return element("li", {}, open, remove);
  }
}
