// Puts the page together.

import { listModels } from "./api.js";
import { Chat, newConversation } from "./chat.js";
import { Composer } from "./composer.js";
import { byId } from "./dom.js";
import { Keeper } from "./keeper.js";
import { Notice } from "./notice.js";
import { budgetName, SettingsStore } from "./settings.js";
import { SettingsDialog } from "./settings_dialog.js";
import { Sidebar } from "./sidebar.js";
import { ConversationStore, openStorage } from "./store.js";
import { isDark, showTheme } from "./theme.js";
import { TurnsView } from "./turns_view.js";

const notice = new Notice();
const store = new ConversationStore(openStorage("localStorage"));
const settingsStore = new SettingsStore(openStorage("localStorage"), openStorage("sessionStorage"));
const page = { settings: settingsStore.load(), models: [], finding: null };

const turnsView = new TurnsView({
  edit: (index, text) => {
    chat.edit(index, text);
    composer.focus();
  },
  regenerate: (index) => {
    chat.regenerate(index);
    composer.focus();
  },
});
const chat = new Chat(turnsView, {
  settings: () => page.settings,
  whenReady: () => page.finding ?? (page.settings.model ? null : findModels()),
  apiKey: () => settingsStore.apiKey,
  changed: (conversation) => keeper.keep(conversation),
  busy: (isBusy) => composer.setBusy(isBusy),
});
const composer = new Composer({ send: (text) => chat.send(text), stop: () => chat.stop() });
const sidebar = new Sidebar({ open: (id) => openConversation(keeper.read(id)), remove: (one) => keeper.askToRemove(one) });
const keeper = new Keeper(store, notice, {
  shown: () => chat.conversation,
  list: (conversations) => showList(conversations),
  removed: (id) => id === chat.conversation.id && openConversation(newConversation()),
});
const dialog = new SettingsDialog(saveSettings);

function openConversation(conversation) {
  if (!conversation) {
    return;
  }
  chat.open(conversation);
  keeper.refresh();
  sidebar.setOpen(false);
  composer.focus();
}

function showList(conversations) {
  sidebar.show(conversations, chat.conversation.id);
  const title = chat.conversation.title || "New conversation";
  byId("title").textContent = title;
  document.title = chat.conversation.title ? `${title} · seed-oss` : "seed-oss";
}

function saveSettings(settings, apiKey) {
  page.settings = settings;
  settingsStore.keepKey(apiKey, settings.remembersKey);
  settingsStore.save(settings);
  showSettings();
  findModels();
}

function showSettings() {
  const { model, budget, theme } = page.settings;
  showTheme(theme);
  byId("model-chip").textContent = `${model || "no model"} · thinking: ${budgetName(budget)}`;
  byId("switch-theme").ariaLabel = isDark() ? "Switch to light" : "Switch to dark";
}

function switchTheme() {
  page.settings = { ...page.settings, theme: isDark() ? "light" : "dark" };
  settingsStore.save(page.settings);
  showSettings();
}

function findModels() {
  page.finding = askForModels().finally(() => (page.finding = null));
  return page.finding;
}

async function askForModels() {
  try {
    page.models = await listModels(settingsStore.apiKey);
    const { model } = page.settings;
    page.settings = { ...page.settings, model: page.models.includes(model) ? model : (page.models[0] ?? "") };
    notice.hide();
  } catch (error) {
    notice.show(error.status === 401 ? "This server asks for an API key: give it in the settings." : error.message);
  }
  showSettings();
}

const openSettings = () => dialog.open(page.settings, settingsStore.apiKey, page.models);
byId("open-settings").onclick = openSettings;
byId("model-chip").onclick = openSettings;
byId("switch-theme").onclick = switchTheme;
byId("new-conversation").onclick = () => openConversation(newConversation());
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !event.isComposing && chat.isBusy && !document.querySelector("dialog[open]")) {
    chat.stop();
    composer.focus();
  }
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", showSettings);
addEventListener("pagehide", () => chat.isBusy && keeper.keep(chat.conversation));

showSettings();
keeper.refresh();
findModels();
composer.focus();
