// An answer as a value: what a stream's chunks amount to, and how a conversation is asked for.

/**
 * An answer of which nothing has come.
 * @param {number} budget tokens of thinking; -1 for no limit
 * @param {number} now milliseconds
 */
export function emptyAnswer(budget, now) {
  return {
    role: "assistant",
    content: "",
    reasoning: "",
    calls: [],
    budget,
    ended: null,
    problem: "",
    numThoughts: 0,
    stats: { startedAt: now, firstAt: null, lastAt: null, thoughtUntil: null, numTokens: 0, numFirst: 0, usage: null },
  };
}

/**
 * Adds a chunk to an answer.
 * @returns {{reasoning: string, content: string, hasCalls: boolean}} what is new
 */
export function takeChunk(answer, chunk, now) {
  const choice = chunk.choices?.[0];
  if (!choice) {
    answer.stats.usage = chunk.usage ? usageOf(chunk.usage) : answer.stats.usage;
    return { reasoning: "", content: "", hasCalls: false };
  }
  answer.ended = choice.finish_reason ?? answer.ended;
  return takeDelta(answer, choice.delta ?? {}, chunk.usage?.completion_tokens, now);
}

function takeDelta(answer, delta, numTokens, now) {
  const reasoning = delta.reasoning_content ?? delta.reasoning ?? "";
  const content = delta.content ?? "";
  const calls = delta.tool_calls ?? [];
  answer.reasoning += reasoning;
  answer.content += content;
  calls.forEach((call) => takeCall(answer.calls, call));
  if (reasoning || content || calls.length) {
    clock(answer, Boolean(reasoning), numTokens ?? answer.stats.numTokens + 1, now);
  }
  return { reasoning, content, hasCalls: calls.length > 0 };
}

function takeCall(calls, delta) {
  const call = (calls[delta.index] ??= { id: "", name: "", arguments: "" });
  call.id ||= delta.id ?? "";
  call.name += delta.function?.name ?? "";
  call.arguments += delta.function?.arguments ?? "";
}

/** Each chunk tells how many tokens there are so far; those that show nothing count with what follows. */
function clock(answer, isThought, numTokens, now) {
  const { stats } = answer;
  if (stats.firstAt === null) {
    stats.firstAt = now;
    stats.numFirst = numTokens;
  }
  stats.lastAt = now;
  if (isThought) {
    answer.numThoughts += numTokens - stats.numTokens;
    stats.thoughtUntil = now;
  }
  stats.numTokens = numTokens;
}

function usageOf(usage) {
  return {
    prompt: usage.prompt_tokens ?? 0,
    completion: usage.completion_tokens ?? 0,
    cached: usage.prompt_tokens_details?.cached_tokens ?? 0,
    reasoning: usage.completion_tokens_details?.reasoning_tokens ?? 0,
  };
}

/** Tokens of thinking: as the server counted them, or until it says, about. */
export function thoughtTokens(answer) {
  return answer.stats.usage?.reasoning ?? answer.numThoughts;
}

/**
 * The numbers of an answer that are shown.
 * @returns {string[]}
 */
export function figures({ stats }) {
  const { startedAt, firstAt, lastAt, numFirst, usage } = stats;
  const numTokens = usage?.completion ?? stats.numTokens;
  const shown = [];
  if (firstAt !== null && lastAt > firstAt) {
    const number = numTokens - Math.max(1, numFirst); // the first ones' time is the prompt's
    const speed = (1000 * Math.max(0, number)) / (lastAt - firstAt);
    shown.push(`${speed.toFixed(speed < 100 ? 1 : 0)} tokens/s`);
  }
  if (firstAt !== null) {
    shown.push(`first token after ${((firstAt - startedAt) / 1000).toFixed(2)} s`);
  }
  if (usage || numTokens > 0) {
    shown.push(`${numTokens.toLocaleString("en")} tokens`);
  }
  if (usage) {
    shown.push(`${usage.cached.toLocaleString("en")} of ${usage.prompt.toLocaleString("en")} prompt tokens cached`);
  }
  return shown;
}

/**
 * The body that asks for the next answer.
 * @param {Object[]} turns of the conversation
 * @param {Object} settings see settings.js
 */
export function requestBody(turns, settings) {
  const system = settings.system.trim() ? [{ role: "system", content: settings.system }] : [];
  const body = {
    model: settings.model,
    messages: [...system, ...turns.map((turn) => message(turn, settings))],
    stream: true,
    stream_options: { include_usage: true, continuous_usage_stats: true },
    thinking_budget: settings.budget,
  };
  return Object.assign(body, optional(settings));
}

function optional({ temperature, topP, maxTokens, tools }) {
  const given = { temperature, top_p: topP, max_completion_tokens: maxTokens, tools };
  return Object.fromEntries(Object.entries(given).filter(([, value]) => value !== null));
}

function message(turn, settings) {
  if (turn.role === "user") {
    return { role: "user", content: turn.content };
  }
  const made = { role: "assistant", content: turn.content };
  if (settings.sendsThinking && turn.reasoning) {
    made.reasoning_content = turn.reasoning;
  }
  const calls = turn.calls.filter(isWhole);
  return calls.length ? { ...made, tool_calls: calls.map(toolCall) } : made;
}

/** A call that was broken off has no arguments that the server would take back. */
function isWhole(call) {
  try {
    return Boolean(call.name) && typeof JSON.parse(call.arguments) === "object";
  } catch {
    return false;
  }
}

function toolCall({ id, name, arguments: given }) {
  return { id, type: "function", function: { name, arguments: given } };
}
