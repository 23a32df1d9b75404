// Server-sent events, split wherever the network cut them.

const MAX_EVENT_CHARS = 2 ** 24;

/** Puts events together from pieces of text. Comments, which keep the connection alive, are passed over. */
export class EventSplitter {
  #rest = "";
  #data = [];
  #size = 0;

  /**
   * @param {string} text what came, cut anywhere
   * @returns {string[]} the data of each event that it completes
   */
  feed(text) {
    const from = Math.max(0, this.#rest.length - 1);
    this.#rest += text;
    const events = [];
    let begin = 0;
    for (const [start, end] of lineEnds(this.#rest, from)) {
      this.#line(this.#rest.slice(begin, start), events);
      begin = end;
    }
    this.#rest = this.#rest.slice(begin);
    this.#check();
    return events;
  }

  #line(line, events) {
    if (line === "" && this.#data.length) {
      events.push(this.#data.join("\n"));
      this.#data = [];
      this.#size = 0;
    } else if (line === "data" || line.startsWith("data:")) {
      const value = line.slice(5);
      this.#data.push(value.startsWith(" ") ? value.slice(1) : value);
      this.#size += line.length;
    }
  }

  #check() {
    const size = this.#rest.length + this.#size;
    if (size > MAX_EVENT_CHARS) {
      throw new RangeError(`an event has more than ${MAX_EVENT_CHARS} characters; this is no stream of answers`);
    }
  }
}

/** Where lines end: pairs of the end's beginning and the next line's. A CR at the very end may be half a CRLF. */
function* lineEnds(text, from) {
  const pattern = /\r\n|\n|\r(?!$)/g;
  pattern.lastIndex = from;
  for (let match = pattern.exec(text); match; match = pattern.exec(text)) {
    yield [match.index, pattern.lastIndex];
  }
}

/**
 * The events of a response, one data string each.
 * @param {ReadableStream<Uint8Array>} body
 */
export async function* readEvents(body) {
  const splitter = new EventSplitter();
  const decoder = new TextDecoder();
  for (const reader = body.getReader(); ; ) {
    const { value, done } = await reader.read();
    if (done) {
      return;
    }
    yield* splitter.feed(decoder.decode(value, { stream: true }));
  }
}
