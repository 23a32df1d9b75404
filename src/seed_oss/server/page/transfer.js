// Conversations as a JSON file, out and in. What comes in is read field by field: a file may hold anything.

import { emptyAnswer } from "./answer.js";

const FORMAT = "seed-oss-conversations";
const MAX_FILE_CHARS = 2 ** 25;
const MAX_TITLE_CHARS = 200;

/** A file that holds no conversations of ours. */
export class TransferError extends Error {}

/** The text of a file with these conversations. */
export function exported(conversations) {
  return JSON.stringify({ format: FORMAT, version: 1, conversations }, null, 1);
}

/**
 * The conversations of a file, under new ids: what is there is never replaced.
 * @param {string} text
 * @param {() => string} newId
 * @throws {TransferError} the file is another one, or damaged
 */
export function imported(text, newId) {
  if (text.length > MAX_FILE_CHARS) {
    throw new TransferError(`The file has ${text.length} characters; at most ${MAX_FILE_CHARS} are read.`);
  }
  const value = parsed(text);
  if (value?.format !== FORMAT || value.version !== 1 || !Array.isArray(value.conversations)) {
    throw new TransferError("The file has no conversations of this page; export makes one that has.");
  }
  return value.conversations.map((given, index) => conversation(given, `Conversation ${index + 1} of the file`, newId()));
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    throw new TransferError("The file is no JSON; choose one that was exported here.");
  }
}

/**
 * A conversation of which every field has its type.
 * @param {*} given
 * @param {string} place what messages call it
 * @param {string} id of the result
 * @throws {TransferError} it has no turns, or others than of user and assistant
 */
export function conversation(given, place, id) {
  if (!Array.isArray(given?.turns)) {
    throw new TransferError(`${place} has no turns; choose a file that was exported here.`);
  }
  const title = string(given.title).slice(0, MAX_TITLE_CHARS);
  return { id, title, updated: number(given.updated), turns: given.turns.map((one) => turn(one, place)) };
}

function turn(given, place) {
  if (given?.role === "user") {
    return { role: "user", content: string(given.content) };
  }
  if (given?.role !== "assistant") {
    throw new TransferError(`${place} has a turn of neither user nor assistant; it cannot be shown.`);
  }
  return answer(given);
}

function answer(given) {
  const calls = Array.isArray(given.calls) ? given.calls : [];
  return {
    ...emptyAnswer(typeof given.budget === "number" ? given.budget : -1, 0),
    content: string(given.content),
    reasoning: string(given.reasoning),
    calls: calls.map((call) => ({
      id: string(call?.id),
      name: string(call?.name),
      arguments: string(call?.arguments),
    })),
    ended: string(given.ended) || null,
    problem: string(given.problem),
    numThoughts: number(given.numThoughts),
    stats: stats(given.stats ?? {}),
  };
}

function stats(given) {
  const { usage } = given;
  const time = (value) => (typeof value === "number" ? value : null);
  return {
    startedAt: number(given.startedAt),
    firstAt: time(given.firstAt),
    lastAt: time(given.lastAt),
    thoughtUntil: time(given.thoughtUntil),
    numTokens: number(given.numTokens),
    numFirst: number(given.numFirst),
    usage: usage && {
      prompt: number(usage.prompt),
      completion: number(usage.completion),
      cached: number(usage.cached),
      reasoning: number(usage.reasoning),
    },
  };
}

function string(value) {
  return typeof value === "string" ? value : "";
}

function number(value) {
  return typeof value === "number" && Number.isFinite(value) ? value : 0;
}
