// What the user chose, as a value, and where it is kept. The API key lives as long as the tab, unless told otherwise.

const SETTINGS = "seed-oss.settings";
const KEY = "seed-oss.api-key";
export const BUDGETS = [-1, 0, 512, 1024, 2048, 4096, 8192, 16384]; // what the model was trained on
const THEMES = ["auto", "light", "dark"];
const DEFAULTS = Object.freeze({
  model: "",
  system: "",
  budget: -1,
  temperature: null,
  topP: null,
  maxTokens: null,
  tools: null,
  sendsThinking: false,
  remembersKey: false,
  theme: "auto",
});

/** A setting that cannot be: `field` says which. */
export class SettingError extends Error {
  constructor(field, message) {
    super(message);
    this.field = field;
  }
}

/** Settings and key in the browser's storages. */
export class SettingsStore {
  #lasting;
  #session;

  /**
   * @param {Storage} lasting
   * @param {Storage} session
   */
  constructor(lasting, session) {
    this.#lasting = lasting;
    this.#session = session;
  }

  /** What was chosen; what is missing or cannot be is the default. */
  load() {
    let given = {};
    try {
      given = JSON.parse(this.#lasting.getItem(SETTINGS)) ?? {};
    } catch {
      // damaged: the defaults
    }
    const isSame = (name) => DEFAULTS[name] === null || typeof given[name] === typeof DEFAULTS[name];
    const names = Object.keys(DEFAULTS).filter((name) => name in given && isSame(name));
    const loaded = { ...DEFAULTS, ...Object.fromEntries(names.map((name) => [name, given[name]])) };
    return { ...loaded, theme: THEMES.includes(loaded.theme) ? loaded.theme : "auto" };
  }

  /** Keeps what was chosen. */
  save(settings) {
    try {
      this.#lasting.setItem(SETTINGS, JSON.stringify(settings));
    } catch {
      // full: they hold until the page is closed
    }
  }

  /** The API key, or "". */
  get apiKey() {
    return this.#session.getItem(KEY) ?? this.#lasting.getItem(KEY) ?? "";
  }

  /** Keeps the key: for this tab, or until it is removed. */
  keepKey(key, isRemembered) {
    this.#session.removeItem(KEY);
    this.#lasting.removeItem(KEY);
    if (key) {
      (isRemembered ? this.#lasting : this.#session).setItem(KEY, key);
    }
  }
}

/** 2048 as "2K", -1 as "no limit". */
export function budgetName(tokens) {
  if (tokens < 0) {
    return "no limit";
  }
  return tokens >= 1024 ? `${tokens / 1024}K` : String(tokens);
}

/**
 * A number as typed, or null for an empty field.
 * @throws {SettingError} it is none, or out of range
 */
export function typedNumber(field, text, low, high) {
  if (!text.trim()) {
    return null;
  }
  const number = Number(text);
  if (!(number >= low && number <= high)) {
    throw new SettingError(field, `${field} is ${text.trim().slice(0, 40)}; allowed are ${low} to ${high}, or nothing.`);
  }
  return number;
}

/**
 * Tools as typed, or null for none. What stands in them is checked by the server.
 * @throws {SettingError} no JSON list
 */
export function typedTools(field, text) {
  if (!text.trim()) {
    return null;
  }
  let tools = null;
  try {
    tools = JSON.parse(text);
  } catch (error) {
    throw new SettingError(field, `${field}: ${error.message}`);
  }
  if (!Array.isArray(tools)) {
    throw new SettingError(field, `${field} must be a JSON list of functions, as in OpenAI's API.`);
  }
  return tools.length ? tools : null;
}
