// The dialog of the settings: from fields to a value and back.

import { byId, element } from "./dom.js";
import { BUDGETS, budgetName, SettingError, typedNumber, typedTools } from "./settings.js";

const MAX_TOKENS = 2 ** 31 - 1;

/** Lets the user change the settings. */
export class SettingsDialog {
  #dialog = byId("settings");
  #error = byId("settings-error");
  #settings = null;
  #onSave;

  /** @param {(settings: Object, apiKey: string) => void} onSave */
  constructor(onSave) {
    this.#onSave = onSave;
    const options = BUDGETS.map((tokens) => element("option", { value: tokens, textContent: budgetName(tokens) }));
    byId("budget").append(...options);
    byId("cancel-settings").onclick = () => this.#dialog.close();
    byId("settings-form").onsubmit = (event) => this.#submit(event);
  }

  /** Shows the settings as they are. */
  open(settings, apiKey, models) {
    this.#settings = settings;
    this.#showModels(models, settings.model);
    byId("budget").value = settings.budget;
    byId("system").value = settings.system;
    byId("temperature").value = settings.temperature ?? "";
    byId("top-p").value = settings.topP ?? "";
    byId("max-tokens").value = settings.maxTokens ?? "";
    byId("api-key").value = apiKey;
    byId("remembers-key").checked = settings.remembersKey;
    byId("sends-thinking").checked = settings.sendsThinking;
    byId("tools").value = settings.tools ? JSON.stringify(settings.tools, null, 2) : "";
    this.#error.hidden = true;
    this.#dialog.showModal();
  }

  #showModels(models, chosen) {
    const names = models.length || !chosen ? models : [chosen];
    const options = names.map((name) => element("option", { value: name, textContent: name }));
    const none = element("option", { value: "", textContent: "the server told of none" });
    byId("model").replaceChildren(...(options.length ? options : [none]));
    byId("model").value = names.includes(chosen) ? chosen : (names[0] ?? "");
  }

  #submit(event) {
    event.preventDefault();
    try {
      const settings = this.#read();
      this.#dialog.close();
      this.#onSave(settings, byId("api-key").value.trim());
    } catch (error) {
      this.#refuse(error);
    }
  }

  #refuse(error) {
    if (!(error instanceof SettingError)) {
      throw error;
    }
    this.#error.textContent = error.message;
    this.#error.hidden = false;
    this.#error.scrollIntoView({ block: "nearest" });
  }

  #read() {
    return {
      ...this.#settings,
      model: byId("model").value,
      budget: Number(byId("budget").value),
      system: byId("system").value,
      temperature: typedNumber("Temperature", byId("temperature").value, 0, 2),
      topP: typedNumber("Top p", byId("top-p").value, 0, 1),
      maxTokens: wholeNumber("Most tokens", byId("max-tokens").value),
      tools: typedTools("Tools", byId("tools").value),
      remembersKey: byId("remembers-key").checked,
      sendsThinking: byId("sends-thinking").checked,
    };
  }
}

function wholeNumber(field, text) {
  const number = typedNumber(field, text, 1, MAX_TOKENS);
  if (number !== null && !Number.isInteger(number)) {
    throw new SettingError(field, `${field} is ${text.trim()}; give a whole number.`);
  }
  return number;
}
