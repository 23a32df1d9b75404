// Keeps conversations in the browser, lets them out as a file and in again, and forgets them.

import { newConversation } from "./chat.js";
import { byId, element } from "./dom.js";
import { ConversationStore, StoreFullError } from "./store.js";
import { conversation as checked, exported, imported, TransferError } from "./transfer.js";

/** Stands between the store and the page. */
export class Keeper {
  #store;
  #notice;
  #page;
  #removed = new Set();

  /**
   * @param {ConversationStore} store
   * @param {Notice} notice
   * @param {{shown: () => Object, list: (conversations) => void, removed: (id: string) => void}} page
   */
  constructor(store, notice, page) {
    this.#store = store;
    this.#notice = notice;
    this.#page = page;
    byId("export").onclick = () => this.#export();
    byId("import").onclick = () => byId("import-file").click();
    byId("import-file").onchange = (event) => this.#import(event.target);
    byId("confirm-no").onclick = () => byId("confirm").close();
    addEventListener("storage", (event) => ConversationStore.isOurs(event.key) && this.refresh());
  }

  /** Keeps a conversation, or says that there is no room. */
  keep(conversation) {
    if (!this.#removed.has(conversation.id)) {
      this.#trying(() => this.#store.put(conversation));
      this.refresh();
    }
  }

  /** A conversation, or null where it is gone or damaged; then the page says so. */
  read(id) {
    const found = this.#store.get(id);
    if (!found) {
      this.#notice.show("This conversation is no longer in the browser.");
      return null;
    }
    return this.#trying(() => checked(found, "This conversation", id)) ?? null;
  }

  /** Shows what there is. One that did not fit is shown as long as it is open. */
  refresh() {
    const kept = this.#store.all();
    const shown = this.#page.shown();
    const isMissing = shown.turns.length > 0 && !kept.some((one) => one.id === shown.id);
    this.#page.list(isMissing ? [shown, ...kept] : kept);
  }

  /** Forgets a conversation, once the user has said so again. */
  askToRemove(conversation) {
    byId("confirm-text").textContent = `Delete “${conversation.title || "Untitled"}”? This cannot be undone.`;
    byId("confirm-yes").onclick = () => this.#remove(conversation.id);
    byId("confirm").showModal();
  }

  #remove(id) {
    byId("confirm").close();
    this.#removed.add(id); // an answer to it may still end
    this.#store.remove(id);
    this.#page.removed(id);
    this.refresh();
    byId("new-conversation").focus();
  }

  #export() {
    const file = new Blob([exported(this.#all())], { type: "application/json" });
    const href = URL.createObjectURL(file);
    const day = new Date().toISOString().slice(0, 10);
    element("a", { href, download: `seed-oss-conversations-${day}.json` }).click();
    setTimeout(() => URL.revokeObjectURL(href), 10_000);
  }

  #all() {
    const shown = this.#page.shown();
    const others = this.#store.all().filter((one) => one.id !== shown.id);
    return shown.turns.length ? [shown, ...others] : others;
  }

  async #import(field) {
    const [file] = field.files;
    field.value = "";
    if (!file) {
      return;
    }
    const text = await file.text();
    this.#trying(() => imported(text, () => newConversation().id).forEach((one) => this.#store.put(one)));
    this.refresh();
  }

  #trying(work) {
    try {
      return work();
    } catch (error) {
      if (!(error instanceof StoreFullError || error instanceof TransferError)) {
        throw error;
      }
      this.#notice.show(error.message);
      return undefined;
    }
  }
}
