// Conversations in the browser: one entry each, so that two tabs do not overwrite one another's, within a bound.

const PREFIX = "seed-oss.chat.";
export const MAX_STORED_CHARS = 4_000_000; // browsers give about 5 million to a site

/** There is no room; nothing was changed. */
export class StoreFullError extends Error {}

/** Keeps conversations: {id, title, updated, turns}. */
export class ConversationStore {
  #storage;
  #maxChars;

  /**
   * @param {Storage} storage
   * @param {number} maxChars of all conversations together
   */
  constructor(storage, maxChars = MAX_STORED_CHARS) {
    this.#storage = storage;
    this.#maxChars = maxChars;
  }

  /** All of them, the newest first. What is no conversation is passed over. */
  all() {
    const found = this.#keys().map((key) => this.#read(key)).filter(Boolean);
    return found.sort((one, other) => other.updated - one.updated);
  }

  /** One of them, or null. */
  get(id) {
    return this.#read(PREFIX + id);
  }

  /**
   * Keeps a conversation.
   * @throws {StoreFullError} nothing was changed
   */
  put(conversation) {
    const text = JSON.stringify(conversation);
    const key = PREFIX + conversation.id;
    const size = this.numChars() - (this.#storage.getItem(key)?.length ?? 0) + text.length;
    if (size > this.#maxChars) {
      throw new StoreFullError(full(size, this.#maxChars));
    }
    try {
      this.#storage.setItem(key, text);
    } catch {
      throw new StoreFullError(full(size, this.#maxChars)); // the browser's own limit, or none is allowed
    }
  }

  /** Forgets a conversation. */
  remove(id) {
    this.#storage.removeItem(PREFIX + id);
  }

  /** Characters that all of them take. */
  numChars() {
    return this.#keys().reduce((sum, key) => sum + this.#storage.getItem(key).length, 0);
  }

  /** Whether a change of the browser's storage is one of ours. */
  static isOurs(key) {
    return key === null || key.startsWith(PREFIX);
  }

  #keys() {
    const names = Array.from({ length: this.#storage.length }, (_, index) => this.#storage.key(index));
    return names.filter((name) => name.startsWith(PREFIX));
  }

  #read(key) {
    try {
      const value = JSON.parse(this.#storage.getItem(key));
      return Array.isArray(value?.turns) ? value : null;
    } catch {
      return null;
    }
  }
}

function full(size, maxChars) {
  const share = (number) => (number / 1e6).toFixed(1);
  return (
    `There is no room for this conversation in the browser: it would take ${share(size)} of ${share(maxChars)} ` +
    "million characters. Export your conversations and delete some; until then this one is kept only in this tab."
  );
}

/** The browser's storage, or one that lasts as long as the page where the browser gives none. */
export function openStorage(name) {
  try {
    const storage = window[name];
    storage.getItem("seed-oss");
    return storage;
  } catch {
    return new PageStorage();
  }
}

class PageStorage {
  #items = new Map();

  get length() {
    return this.#items.size;
  }

  key(index) {
    return [...this.#items.keys()][index] ?? null;
  }

  getItem(key) {
    return this.#items.get(key) ?? null;
  }

  setItem(key, value) {
    this.#items.set(key, String(value));
  }

  removeItem(key) {
    this.#items.delete(key);
  }
}
