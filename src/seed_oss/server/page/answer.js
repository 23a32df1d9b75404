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
    stats: { startedAt: now, firstAt: null, lastAt: null, thoughtUntil: null, numDeltas: 0, usage: null },
  };
}

/**
 * Adds a chunk to an answer.
 * @returns {{reasoning: string, content: string, hasCalls: boolean}} what is new
 */
export function takeChunk(answer, chunk, now) {
  if (chunk.usage) {
    answer.stats.usage = usageOf(chunk.usage);
  }
  const choice = chunk.choices?.[0];
  if (!choice) {
    return { reasoning: "", content: "", hasCalls: false };
  }
  answer.ended = choice.finish_reason ?? answer.ended;
  return takeDelta(answer, choice.delta ?? {}, now);
}

function takeDelta(answer, delta, now) {
  const reasoning = delta.reasoning_content ?? delta.reasoning ?? "";
  const content = delta.content ?? "";
  const calls = delta.tool_calls ?? [];
  answer.reasoning += reasoning;
  answer.content += content;
  calls.forEach((call) => takeCall(answer.calls, call));
  if (reasoning || content || calls.length) {
    clock(answer, Boolean(reasoning), now);
  }
  return { reasoning, content, hasCalls: calls.length > 0 };
}

function takeCall(calls, delta) {
  const call = (calls[delta.index] ??= { id: "", name: "", arguments: "" });
  call.id ||= delta.id ?? "";
  call.name += delta.function?.name ?? "";
  call.arguments += delta.function?.arguments ?? "";
}

/** A stream tells the number of tokens at its end only; until then a delta counts as one. */
function clock(answer, isThought, now) {
  const { stats } = answer;
  stats.firstAt ??= now;
  stats.lastAt = now;
  stats.numDeltas += 1;
  if (isThought) {
    answer.numThoughts += 1;
    stats.thoughtUntil = now;
  }
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
  const { startedAt, firstAt, lastAt, usage } = stats;
  const shown = [];
  if (firstAt !== null && lastAt > firstAt) {
    const number = (usage?.completion ?? stats.numDeltas) - 1; // the first one's time is the prompt's
    const speed = (1000 * Math.max(0, number)) / (lastAt - firstAt);
    shown.push(`${speed.toFixed(speed < 100 ? 1 : 0)} tokens/s`);
  }
  if (firstAt !== null) {
    shown.push(`first token after ${((firstAt - startedAt) / 1000).toFixed(2)} s`);
  }
  if (usage) {
    shown.push(`${usage.completion.toLocaleString("en")} tokens`);
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
    stream_options: { include_usage: true },
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
