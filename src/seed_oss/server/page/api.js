// The server's API: which models there are, and answers as they come.

import { readEvents } from "./sse.js";

/** What the server said went wrong, in its words. */
export class ServerError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

/** The server cannot be reached, or went away in the middle of an answer. */
export class ConnectionError extends Error {}

/** Names of the models that are served. */
export async function listModels(apiKey) {
  const response = await ask("v1/models", { headers: headers(apiKey) });
  const { data } = await response.json();
  return data.map((model) => String(model.id));
}

/**
 * The chunks of an answer.
 * @param {Object} body of POST /v1/chat/completions
 * @param {string} apiKey may be empty
 * @param {AbortSignal} signal
 */
export async function* streamChat(body, apiKey, signal) {
  const init = { method: "POST", headers: headers(apiKey), body: JSON.stringify(body), signal };
  const response = await ask("v1/chat/completions", init);
  for await (const event of eventsOf(response)) {
    if (event === "[DONE]") {
      return;
    }
    const chunk = JSON.parse(event);
    if (chunk.error) {
      throw new ServerError(String(chunk.error.message), response.status);
    }
    yield chunk;
  }
  throw new ConnectionError("The connection was lost in the middle of the answer.");
}

async function* eventsOf(response) {
  try {
    yield* readEvents(response.body);
  } catch (error) {
    throw error.name === "TypeError"
      ? new ConnectionError("The connection was lost in the middle of the answer.")
      : error;
  }
}

async function ask(path, init) {
  let response;
  try {
    response = await fetch(new URL(path, document.baseURI), init);
  } catch (error) {
    throw error.name === "TypeError" ? new ConnectionError("The server cannot be reached.") : error;
  }
  if (!response.ok) {
    throw new ServerError(await messageOf(response), response.status);
  }
  return response;
}

/** An error's message in OpenAI's shape, or the status where whoever answered has no such shape. */
async function messageOf(response) {
  const text = await response.text();
  try {
    return String(JSON.parse(text).error.message);
  } catch {
    return `The server answered ${response.status} ${response.statusText}`.trim();
  }
}

function headers(apiKey) {
  const given = { "Content-Type": "application/json" };
  return apiKey ? { ...given, Authorization: `Bearer ${apiKey}` } : given;
}
