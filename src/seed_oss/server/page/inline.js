// Markdown within a line, as plain values. Its time grows with the length: what has no end is looked for once.

const MAX_DEPTH = 4;
const LINK = /\[([^[\]\n]{1,500})\]\(((?:[^\s()]|\([^\s()]{0,200}\)){1,2000})\)/y;
const ADDRESS = /https?:\/\/[^\s<>"'`*]{1,2000}/y;
const WORD = /[\p{L}\p{N}]/u;

/**
 * The parts of a text.
 * @param {string} text
 * @returns {Object[]} {type: "text" | "code", text}, {type: "strong" | "em", parts} or {type: "link", text, href}
 */
export function inlineParts(text, depth = 0) {
  const reader = { text, at: 0, plain: "", parts: [], missing: new Set(), depth };
  while (reader.at < text.length) {
    const found = partAt(reader);
    if (found) {
      addText(reader);
      reader.parts.push(found.part);
      reader.at = found.end;
    } else {
      takePlain(reader);
    }
  }
  addText(reader);
  return reader.parts;
}

function addText(reader) {
  if (reader.plain) {
    reader.parts.push({ type: "text", text: reader.plain });
    reader.plain = "";
  }
}

/** Takes what begins nothing: up to the next character that may. */
function takePlain(reader) {
  const { text, at } = reader;
  const isEscape = text[at] === "\\" && /[!-/:-@[-`{-~]/.test(text[at + 1] ?? "");
  const begin = isEscape ? at + 1 : at;
  const run = text[at] === "`" && !isEscape ? runLength(text, at) : 1;
  let end = begin + run;
  while (end < text.length && !"\\`*_[h".includes(text[end])) {
    end += 1;
  }
  reader.plain += text.slice(begin, end);
  reader.at = end;
}

function partAt(reader) {
  switch (reader.text[reader.at]) {
    case "`":
      return code(reader);
    case "*":
    case "_":
      return emphasis(reader);
    case "[":
      return link(reader);
    case "h":
      return address(reader);
    default:
      return null;
  }
}

function runLength(text, at) {
  let end = at;
  while (text[end] === text[at]) {
    end += 1;
  }
  return end - at;
}

function code(reader) {
  const { text, at } = reader;
  const length = runLength(text, at);
  const begin = at + length;
  if (reader.missing.has(`code ${length}`)) {
    return null;
  }
  for (let end = text.indexOf("`", begin); end >= 0; ) {
    const closing = runLength(text, end);
    if (closing === length) {
      return { part: { type: "code", text: unpadded(text.slice(begin, end)) }, end: end + closing };
    }
    end = text.indexOf("`", end + closing);
  }
  reader.missing.add(`code ${length}`);
  return null;
}

function unpadded(text) {
  return text.startsWith(" ") && text.endsWith(" ") && text.trim() ? text.slice(1, -1) : text;
}

function emphasis(reader) {
  const { text, at, depth } = reader;
  const isStrong = text[at + 1] === text[at];
  const mark = isStrong ? text[at].repeat(2) : text[at];
  if (depth >= MAX_DEPTH || reader.missing.has(mark) || !opens(text, at, mark)) {
    return null;
  }
  const begin = at + mark.length;
  const end = closing(text, begin, mark);
  if (end < 0) {
    reader.missing.add(mark);
    return null;
  }
  const parts = inlineParts(text.slice(begin, end), depth + 1);
  return { part: { type: isStrong ? "strong" : "em", parts }, end: end + mark.length };
}

function opens(text, at, mark) {
  const next = text[at + mark.length] ?? " ";
  return !/\s/.test(next) && next !== mark[0] && !(mark[0] === "_" && WORD.test(text[at - 1] ?? " "));
}

function closing(text, begin, mark) {
  for (let end = text.indexOf(mark, begin + 1); end >= 0; end = text.indexOf(mark, end + 1)) {
    const isSingle = mark.length === 2 || (text[end + 1] !== mark && text[end - 1] !== mark);
    const isInWord = mark[0] === "_" && WORD.test(text[end + mark.length] ?? " ");
    if (isSingle && !isInWord && !/[\s\\]/.test(text[end - 1])) {
      return mark.length === 2 && text[end + 2] === mark[0] ? end + 1 : end;
    }
  }
  return -1;
}

function link(reader) {
  LINK.lastIndex = reader.at;
  const match = LINK.exec(reader.text);
  const href = match && safeAddress(match[2]);
  return href ? { part: { type: "link", text: match[1], href }, end: LINK.lastIndex } : null;
}

function address(reader) {
  ADDRESS.lastIndex = reader.at;
  if (WORD.test(reader.text[reader.at - 1] ?? " ")) {
    return null;
  }
  const match = ADDRESS.exec(reader.text);
  const text = match && trimmed(match[0]);
  const href = text && safeAddress(text);
  return href ? { part: { type: "link", text, href }, end: reader.at + text.length } : null;
}

/** Punctuation behind an address belongs to the sentence. */
function trimmed(text) {
  let end = text.length;
  const isClosing = () => text[end - 1] === ")" && text.lastIndexOf("(", end - 1) >= 0;
  while (".,;:!?])}_".includes(text[end - 1]) && !isClosing()) {
    end -= 1;
  }
  return text.slice(0, end);
}

/** An address of the web, or null: anything else is not made a link. */
export function safeAddress(text) {
  const url = URL.canParse(text) ? new URL(text) : null;
  return url && (url.protocol === "https:" || url.protocol === "http:") ? url.href : null;
}
