// The conversation that is open: what is sent, what comes back, and what is kept.

import { emptyAnswer, requestBody, takeChunk } from "./answer.js";
import { streamChat } from "./api.js";

const MAX_TITLE_CHARS = 60;

/** A conversation without turns. */
export function newConversation() {
  return { id: crypto.randomUUID?.() ?? randomId(), title: "", updated: Date.now(), turns: [] };
}

/** crypto.randomUUID is missing where a page comes over plain HTTP from another machine. */
function randomId() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Leads a conversation. One answer comes at a time. */
export class Chat {
  #view;
  #deps;
  #stopper = null;

  /**
   * @param {TurnsView} view
   * @param {{settings: () => Object, whenReady: () => Promise<void>, apiKey: () => string,
   *   changed: (conversation) => void, busy: (isBusy: boolean) => void}} deps whenReady waits for the model's name
   */
  constructor(view, deps) {
    this.#view = view;
    this.#deps = deps;
    this.conversation = newConversation();
  }

  /** Whether an answer is coming. */
  get isBusy() {
    return this.#stopper !== null;
  }

  /** Shows another conversation; an answer that is coming is stopped, and kept as far as it is. */
  open(conversation) {
    this.stop();
    this.conversation = conversation;
    this.#view.showAll(conversation.turns);
  }

  /** Breaks off the answer that is coming. */
  stop() {
    this.#stopper?.abort();
    this.#stopper = null;
  }

  /** Says something. */
  async send(text) {
    const { turns } = this.conversation;
    const turn = { role: "user", content: text };
    turns.push(turn);
    this.conversation.title ||= titleOf(text);
    this.#view.add(turn, turns.length - 1);
    await this.#answer();
  }

  /** Says something else instead of a turn, and drops what came after it. */
  async edit(index, text) {
    this.#cutAt(index);
    await this.send(text);
  }

  /** Asks for an answer again, and drops what came after it. */
  async regenerate(index) {
    this.#cutAt(index);
    await this.#answer();
  }

  #cutAt(index) {
    this.stop();
    this.conversation.turns.length = index;
    this.#view.cutAt(index);
  }

  async #answer() {
    const { conversation } = this;
    const asked = [...conversation.turns];
    const answer = emptyAnswer(this.#deps.settings().budget, performance.now());
    const view = this.#view.add(answer, conversation.turns.push(answer) - 1);
    const stopper = (this.#stopper = new AbortController());
    this.#deps.changed(touched(conversation));
    this.#setBusy(true);
    this.#view.goToEnd();
    await this.#receive(answer, view, asked, stopper.signal);
    view.finish();
    this.#ended(conversation, stopper);
  }

  async #receive(answer, view, asked, signal) {
    try {
      await this.#deps.whenReady();
      const body = requestBody(asked, this.#deps.settings());
      for await (const chunk of streamChat(body, this.#deps.apiKey(), signal)) {
        takeChunk(answer, chunk, performance.now());
        view.changed(() => this.#view.grown());
      }
    } catch (error) {
      answer.ended = signal.aborted ? "stopped" : "failed";
      answer.problem = signal.aborted ? "" : error.message;
    }
  }

  /** Another answer may already be coming, if this one was stopped for it. */
  #ended(conversation, stopper) {
    if (this.#stopper === stopper || this.#stopper === null) {
      this.#stopper = null;
      this.#setBusy(false);
    }
    this.#view.grown();
    this.#deps.changed(touched(conversation));
  }

  #setBusy(isBusy) {
    this.#view.setBusy(isBusy);
    this.#deps.busy(isBusy);
  }
}

function touched(conversation) {
  return Object.assign(conversation, { updated: Date.now() });
}

function titleOf(text) {
  const line = text.trim().split("\n", 1)[0];
  return line.length > MAX_TITLE_CHARS ? `${[...line].slice(0, MAX_TITLE_CHARS).join("")}…` : line;
}
