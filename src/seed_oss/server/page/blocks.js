// Markdown's blocks, line by line: a state and a line give a new state and the pieces that have become certain.
//
//   nothing -> paragraph | item -> nothing       ``` -> fence -> ``` -> nothing
//   paragraph with | -> |---| -> table -> nothing
//
// Pieces are bounded, whatever the text: a paragraph that does not end is handed on in parts.

const SOFT_CHARS = 4000; // past this, a block ends with its line
export const HARD_CHARS = 16000; // past this, a line is cut
const FENCE = /^( {0,12})(`{3,}|~{3,})[ \t]*([^\s`]{0,40})[^`]*$/;
const HEADING = /^(#{1,6})[ \t]+(.*)$/;
const RULE = /^ {0,3}(?:(?:-[ \t]*){3,}|(?:\*[ \t]*){3,}|(?:_[ \t]*){3,})$/;
const ITEM = /^([ \t]*)([-*+]|\d{1,9}[.)])[ \t]+(.*)$/;
const DIVIDER = /^ {0,3}\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*$/;
const MAX_COLUMNS = 50;
const MAX_ROWS = 200; // a browser lays out a whole table again for each row
const NOTHING = Object.freeze({ open: null, fence: null, table: null, isAfterBlank: false });

/** The state before the first line. */
export function initialState() {
  return NOTHING;
}

/** Whether the beginning of a line may turn out to be a fence, so that it is not shown before it ends. */
export function mayBeFence(state, line) {
  return state.fence === null ? /^ {0,12}(`{3}|~{3})/.test(line) : /^ {0,12}[`~]*[ \t]*$/.test(line);
}

/**
 * Reads a line.
 * @param {Object} state a value; it is not changed
 * @param {string} line without its end
 * @returns {[Object, Object[]]} the new state, and pieces: {type: "paragraph" | "heading" | "item" | "rule" | "fence" |
 *   "code" | "end", text, ...} or {type: "table" | "row", cells}
 */
export function step(state, line) {
  if (state.fence) {
    return inFence(state, line);
  }
  const fence = FENCE.exec(line);
  if (fence) {
    const opened = { indent: fence[1].length, mark: fence[2], isEmpty: true, isCut: false };
    return [{ ...NOTHING, fence: opened }, [...finish(state), { type: "fence", language: fence[3], text: "" }]];
  }
  if (!line.trim()) {
    return blank(state);
  }
  return table(state, line) ?? heading(state, line) ?? rule(state, line) ?? item(state, line) ?? words(state, line);
}

/** The pieces of a state after which nothing comes. */
export function finish(state) {
  if (state.fence) {
    return [{ type: "end", text: "" }];
  }
  return state.open ? [state.open] : [];
}

/** The state after a part of a line, which is too long to wait for its end. */
export function cut(state, part) {
  if (state.fence) {
    const { fence } = state;
    return [{ ...state, fence: { ...fence, isCut: true, isEmpty: false } }, [codePiece(fence, part)]];
  }
  const [next, pieces] = step(state, part);
  const rest = { type: "paragraph", text: "", isContinued: true };
  return [{ ...NOTHING, open: rest }, [...pieces, ...finish(next)]];
}

function inFence(state, line) {
  const { fence } = state;
  const text = line.trim();
  if (!fence.isCut && text.length >= fence.mark.length && text === fence.mark[0].repeat(text.length)) {
    return [NOTHING, [{ type: "end", text: "" }]];
  }
  return [{ ...state, fence: { ...fence, isEmpty: false, isCut: false } }, [codePiece(fence, line)]];
}

function codePiece(fence, line) {
  if (fence.isCut) {
    return { type: "code", text: line };
  }
  const indent = Math.min(fence.indent, line.length - line.trimStart().length);
  return { type: "code", text: (fence.isEmpty ? "" : "\n") + line.slice(indent) };
}

/** A line of a table, or the one that makes the paragraph above it a table's head. */
function table(state, line) {
  const { open } = state;
  if (state.table && line.includes("|")) {
    return row(state, line);
  }
  const isHead = open?.type === "paragraph" && open.text.includes("|") && !open.text.includes("\n");
  if (!isHead || !line.includes("|") || !DIVIDER.test(line)) {
    return null;
  }
  const cells = cellsOf(open.text);
  return [{ ...NOTHING, table: { numColumns: cells.length, numRows: 0 } }, [{ type: "table", cells }]];
}

function row(state, line) {
  const { numColumns, numRows } = state.table;
  const found = cellsOf(line);
  const cells = Array.from({ length: numColumns }, (_, index) => found[index] ?? "");
  const isFull = numRows >= MAX_ROWS;
  const pieces = isFull ? [{ type: "table", cells: [] }, { type: "row", cells }] : [{ type: "row", cells }];
  return [{ ...state, table: { numColumns, numRows: isFull ? 1 : numRows + 1 } }, pieces];
}

function cellsOf(line) {
  const inner = line.trim().replace(/^\|/, "").replace(/\|$/, "");
  return inner.split(/(?<!\\)\|/, MAX_COLUMNS).map((cell) => cell.trim().replaceAll("\\|", "|"));
}

/** A paragraph ends; an item may go on with lines that are indented. */
function blank(state) {
  if (state.open?.type === "item") {
    return [{ ...state, isAfterBlank: true }, []];
  }
  return [NOTHING, finish(state)];
}

function heading(state, line) {
  const match = HEADING.exec(line);
  if (!match) {
    return null;
  }
  const text = match[2].trimEnd();
  return [NOTHING, [...finish(state), { type: "heading", level: match[1].length, text: text.slice(0, HARD_CHARS) }]];
}

function rule(state, line) {
  return RULE.test(line) ? [NOTHING, [...finish(state), { type: "rule", text: "" }]] : null;
}

function item(state, line) {
  const match = ITEM.exec(line);
  if (!match) {
    return null;
  }
  const [, space, mark, text] = match;
  const number = Number.parseInt(mark, 10);
  const isOrdered = !Number.isNaN(number);
  const indent = space.replaceAll("\t", "    ").length;
  const open = { type: "item", indent, isOrdered, number: isOrdered ? number : 0, text };
  return [{ ...NOTHING, open }, finish(state)];
}

function words(state, line) {
  const { open, isAfterBlank } = state;
  const goesOn = open && (!isAfterBlank || /^(?: {2}|\t)/.test(line));
  const begun = goesOn ? open : { type: "paragraph", text: "", isContinued: false };
  const gap = isAfterBlank ? "\n\n" : "\n";
  const grown = { ...begun, text: begun.text ? begun.text + gap + line.trim() : line.trim() };
  const done = goesOn ? [] : finish(state);
  if (grown.text.length < SOFT_CHARS) {
    return [{ ...NOTHING, open: grown }, done];
  }
  return [{ ...NOTHING, open: { type: "paragraph", text: "", isContinued: true } }, [...done, grown]];
}
