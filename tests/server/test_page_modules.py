"""The chat page's modules by themselves, in a browser: events, Markdown, stores."""

import json
from collections.abc import Generator
from typing import Any

import pytest

from tests.server.browser import browsing, opened, serving

pytestmark = pytest.mark.xdist_group("browser")


@pytest.fixture(scope="module")
def page() -> Generator[Any, None, None]:
    """A page that every test here imports modules into."""
    with serving() as served, browsing() as browser, opened(browser, served.url) as (page, _):
        page.get_by_role("button", name="Model and thinking").wait_for()
        yield page


def call(page: Any, module: str, code: str, value: Any = None) -> Any:
    """What some code makes of a value; `m` is the module."""
    return page.evaluate(
        f"async (value) => {{ const m = await import('/page/{module}.js'); return (async () => {{ {code} }})(); }}",
        value,
    )


EVENTS = (
    ': keep-alive\n\ndata: {"a": 1}\n\nevent: x\r\ndata: é€😀\r\ndata: more\r\n\r\n'
    "data: 1\rdata: 2\r\rdata\n\n:\n\ndata: [DONE]\n\n"
)
SAID = ['{"a": 1}', "é€😀\nmore", "1\n2", "", "[DONE]"]


def test_events_may_be_cut_anywhere(page: Any) -> None:
    code = """
      const bytes = new TextEncoder().encode(value), results = [];
      for (let size = 1; size <= bytes.length; size++) {
        const parts = [];
        for (let at = 0; at < bytes.length; at += size) parts.push(bytes.slice(at, at + size));
        const events = [], body = new ReadableStream({
          start: (to) => { parts.forEach((part) => to.enqueue(part)); to.close(); } });
        for await (const event of m.readEvents(body)) events.push(event);
        results.push(JSON.stringify(events));
      }
      return [...new Set(results)].map((text) => JSON.parse(text));"""
    assert call(page, "sse", code, EVENTS) == [SAID]


@pytest.mark.parametrize("part", ["x" * 2**20, "data: " + "x" * 2**20 + "\n"], ids=["line", "lines"])
def test_an_event_without_an_end_is_refused(page: Any, part: str) -> None:
    code = """
      const splitter = new m.EventSplitter();
      try { for (let n = 0; n < 17; n++) splitter.feed(value); } catch (error) { return error.name; }"""
    assert call(page, "sse", code, part) == "RangeError"


def markdown(page: Any, text: str, sizes: list[int]) -> list[str]:
    """The markup that Markdown comes to, for each size of the pieces it comes in."""
    code = """
      return value.sizes.map((size) => {
        const parent = document.createElement("div"), view = new m.MarkdownView(parent);
        for (let at = 0; at < value.text.length; at += size) view.append(value.text.slice(at, at + size));
        view.finish();
        return parent.innerHTML;
      });"""
    return call(page, "markdown", code, {"text": text, "sizes": sizes})


TABLE = (
    '<div class="table" tabindex="0" role="region" aria-label="Table"><table><thead><tr>{head}</tr></thead>'
    "<tbody>{rows}</tbody></table></div>"
)
ROWS = "<tr><td>1</td><td><code>2</code></td></tr><tr><td>x</td><td></td></tr>"


@pytest.mark.parametrize(
    ("text", "markup"),
    [
        ("One\ntwo\n\nthree", '<p class="">One\ntwo</p><p class="">three</p>'),
        ("# A *b*", '<h3 class="level1">A <em>b</em></h3>'),
        ("a **b _c_** `d*e*`", '<p class="">a <strong>b <em>c</em></strong> <code>d*e*</code></p>'),
        ("**a", '<p class="">**a</p>'),
        ("2 * 3 * 4, snake_case_name", '<p class="">2 * 3 * 4, snake_case_name</p>'),
        (r"\*a\* `` b`c ``", '<p class="">*a* <code>b`c</code></p>'),
        ("- a\n- b\n  - c\n- d", "<ul><li>a</li><li>b<ul><li>c</li></ul></li><li>d</li></ul>"),
        ("3. a\n\n4. b", '<ol start="3"><li>a</li><li>b</li></ol>'),
        ("- a\n\n  more\n\nout", '<ul><li>a\n\nmore</li></ul><p class="">out</p>'),
        ("1. a\n- b", '<ol start="1"><li>a</li></ol><ul><li>b</li></ul>'),
        ("a\n\n---\n\nb", '<p class="">a</p><hr><p class="">b</p>'),
        ("a\r\nb", '<p class="">a\nb</p>'),
        (
            "|a|*b*|\n|:-|-:|\n| 1 | `2` |\n|x|\n\nend | of it",
            TABLE.format(head='<th scope="col">a</th><th scope="col"><em>b</em></th>', rows=ROWS)
            + '<p class="">end | of it</p>',
        ),
        ("a | b\nc", '<p class="">a | b\nc</p>'),
        ("<b>x</b> &amp; <!-- -->", '<p class="">&lt;b&gt;x&lt;/b&gt; &amp;amp; &lt;!-- --&gt;</p>'),
        (
            "[a](javascript:alert(1)) [b](data:text/html,x)",
            '<p class="">[a](javascript:alert(1)) [b](data:text/html,x)</p>',
        ),
    ],
)
def test_markdown(page: Any, text: str, markup: str) -> None:
    assert set(markdown(page, text, [1, 2, 3, 7, 1000])) == {markup}


def test_links_lead_to_the_web_only(page: Any) -> None:
    (markup,) = set(markdown(page, "[a](https://a.example/x_(y)) at http://b.example/z.", [1, 5, 99]))
    kept = 'rel="noopener noreferrer" target="_blank"'
    assert markup.count(kept) == 2
    assert 'href="https://a.example/x_(y)"' in markup
    assert ">http://b.example/z</a>." in markup


def test_code_is_kept_as_it_is(page: Any) -> None:
    code = "  if a < b:\n\n      `c` ** [d](e)\n``\n"
    for markup in markdown(page, f"x\n```py\n{code}```\ny", [1, 2, 3, 5, 8, 1000]):
        assert page.evaluate(
            "(markup) => new DOMParser().parseFromString(markup, 'text/html').querySelector('pre').textContent", markup
        ) == code.removesuffix("\n")
        assert markup.startswith('<p class="">x</p>')
        assert markup.endswith('<p class="">y</p>')


def test_a_fence_that_never_ends_is_code(page: Any) -> None:
    assert "<pre" in markdown(page, "```\na\n", [1])[0]


@pytest.mark.parametrize(
    "bomb",
    ["*" * 50000, "[" * 50000, "`" * 30001 + "a`" * 9999, "**a " * 20000, "_a *b " * 9999, "[a](" * 20000, "> " * 20000]
    + ["- " * 20000, "\n".join(" " * (2 * depth) + "- a" for depth in range(2000)), "#" * 50000, "(http://a" * 9999]
    + [
        "|" * 50000,
        "a|\n" + "|-" * 20000 + "\n" + "|a" * 20000,
        "-" * 50000 + "|",
        "*a_" * 20000 + "_a*" * 20000,
        "\\" * 50000,
        "1. " * 20000,
        "http://a" + ")" * 50000,
    ],
    ids=lambda bomb: bomb[:8],
)
def test_bombs_are_harmless(page: Any, bomb: str) -> None:
    code = """
      const parent = document.createElement("div"), view = new m.MarkdownView(parent), begin = performance.now();
      for (let at = 0; at < value.length; at += 1000) view.append(value.slice(at, at + 1000));
      view.finish();
      let depth = 0;
      for (let node = parent; node; node = node.lastElementChild) depth++;
      return [performance.now() - begin, depth];"""
    milliseconds, depth = call(page, "markdown", code, bomb)
    assert milliseconds < 2000
    assert depth < 30


LONG = [
    "\n".join(f"Line {number} with **words** and `code`." for number in range(10_000)),
    "\n\n".join(f"Paragraph {number}." for number in range(5000)),
    "```\n" + "\n".join(f"code {number}" for number in range(10_000)),
    "\n".join(f"- item {number}" for number in range(10_000)),
    "a | b\n-|-\n" + "\n".join(f"{number} | x" for number in range(10_000)),
    "é€😀x" * 50_000,
]


@pytest.mark.parametrize("text", LONG, ids=["lines", "paragraphs", "code", "items", "rows", "one line"])
def test_what_is_finished_is_not_drawn_again(page: Any, text: str) -> None:
    code = """
      const parent = document.createElement("div"), view = new m.MarkdownView(parent);
      let worst = 0, size = 0;
      const note = (records) => { for (const { removedNodes } of records) for (const node of removedNodes)
        worst = Math.max(worst, node.textContent.length); };
      const watch = new MutationObserver(note);
      watch.observe(parent, { childList: true, subtree: true });
      for (let at = 0; at < value.length; at += 997) {
        view.append(value.slice(at, at + 997));
        note(watch.takeRecords());
      }
      view.finish();
      note(watch.takeRecords());
      for (const node of parent.querySelectorAll("p, li, .part, table")) size = Math.max(size, node.textContent.length);
      return [worst, size, parent.textContent];"""
    worst, size, shown = call(page, "markdown", code, text)
    assert worst <= 20_000
    assert size <= 21_000
    if "😀" in text:
        assert shown == text


def test_a_text_flow_loses_nothing(page: Any) -> None:
    text = "".join("x" * (number % 90) + ("\n" if number % 7 else "😀") for number in range(3000)) + "y" * 40_000
    code = """
      const parent = document.createElement("div"), flow = new m.TextFlow(parent);
      for (let at = 0; at < value.length; ) {
        let end = at + 1 + (at % 5000);
        if ((value.charCodeAt(end - 1) & 0xfc00) === 0xd800) end++;
        flow.append(value.slice(at, end));
        at = end;
      }
      return [flow.text, [...parent.children].map((part) => part.textContent)];"""
    kept, parts = call(page, "text_flow", code, text)
    assert kept == text
    assert "".join(parts).replace("\n", "") == text.replace("\n", "")
    assert max(map(len, parts)) <= 16_000


def test_a_text_flow_does_not_cut_characters(page: Any) -> None:
    code = """
      const parent = document.createElement("div");
      new m.TextFlow(parent).append("x" + "😀".repeat(20_000));
      return [...parent.children].map((part) => part.textContent.isWellFormed());"""
    assert call(page, "text_flow", code) == [True, True, True]


def test_a_store_has_a_bound(page: Any) -> None:
    code = """
      const items = new Map(), storage = { get length() { return items.size }, key: (n) => [...items.keys()][n],
        getItem: (k) => items.get(k) ?? null, setItem: (k, v) => items.set(k, v), removeItem: (k) => items.delete(k) };
      const store = new m.ConversationStore(storage, 250), one = (id, text) => ({ id, title: "", updated: id.length,
        turns: [{ role: "user", content: text }] });
      store.put(one("a", "x".repeat(80)));
      const said = [];
      try { store.put(one("bb", "x".repeat(80))); } catch (error) { said.push(error instanceof m.StoreFullError); }
      store.put(one("a", "y".repeat(90)));  // in its own place there is room
      storage.setItem("seed-oss.chat.damaged", "{");
      storage.setItem("another site's", "x".repeat(999));
      store.put(one("cc", ""));
      said.push(store.all().map((found) => found.id).join());
      store.remove("cc");
      said.push(store.get("cc"), store.get("a").turns[0].content.length);
      return said;"""
    assert call(page, "store", code) == [True, "cc,a", None, 90]


def test_the_browsers_own_limit_is_said_as_well(page: Any) -> None:
    code = """
      const refuse = () => { throw new DOMException("", "QuotaExceededError"); };
      const store = new m.ConversationStore({ length: 0, getItem: () => null, setItem: refuse });
      try { store.put({ id: "a", turns: [] }); } catch (error) { return error.message; }"""
    assert "Export your conversations and delete some" in call(page, "store", code)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "no JSON"),
        ("[]", "no conversations"),
        ('{"format": "seed-oss-conversations", "version": 2, "conversations": []}', "no conversations"),
        ('{"format": "seed-oss-conversations", "version": 1, "conversations": [{}]}', "Conversation 1 of the file"),
        (
            '{"format": "seed-oss-conversations", "version": 1, "conversations": [{"turns": [{"role": "system"}]}]}',
            "neither user nor assistant",
        ),
    ],
)
def test_other_files_are_refused(page: Any, text: str, message: str) -> None:
    code = """
      try { m.imported(value, () => "id"); }
      catch (error) { return [error instanceof m.TransferError, error.message]; }"""
    is_ours, said = call(page, "transfer", code, text)
    assert is_ours
    assert message in said


def test_what_is_imported_has_the_right_types(page: Any) -> None:
    answer = {"role": "assistant", "content": "x", "calls": [None], "stats": {"usage": {}}}
    given = [{"title": {}, "turns": [{"role": "user", "content": 3}, answer]}]
    text = json.dumps({"format": "seed-oss-conversations", "version": 1, "conversations": given})
    (found,) = call(page, "transfer", "return m.imported(value, () => 'new')", text)
    assert (found["id"], found["title"]) == ("new", "")
    assert found["turns"][0]["content"] == ""
    assert found["turns"][1]["calls"] == [{"id": "", "name": "", "arguments": ""}]
    assert found["turns"][1]["stats"]["usage"] == {"prompt": 0, "completion": 0, "cached": 0, "reasoning": 0}


def test_settings_that_cannot_be_are_refused(page: Any) -> None:
    code = """
      const said = (work) => { try { return work(); } catch (error) { return error.message; } };
      return [said(() => m.typedNumber("Top p", " ", 0, 1)), said(() => m.typedNumber("Top p", "0.5", 0, 1)),
        said(() => m.typedNumber("Top p", "1.5", 0, 1)), said(() => m.typedNumber("Top p", "much", 0, 1)),
        said(() => m.typedTools("Tools", "{}")), said(() => m.typedTools("Tools", "[]"))];"""
    empty, half, high, word, tools, none = call(page, "settings", code)
    assert (empty, half, none) == (None, 0.5, None)
    assert high == "Top p is 1.5; allowed are 0 to 1, or nothing."
    assert "much" in word
    assert "JSON list" in tools


def test_broken_off_calls_are_not_sent_back(page: Any) -> None:
    code = """
      const answer = { ...m.emptyAnswer(-1, 0), content: "x", reasoning: "y", calls: [
        { id: "1", name: "f", arguments: '{"a": 1}' }, { id: "2", name: "g", arguments: '{"a"' }] };
      const settings = { model: "m", system: " ", budget: 0, temperature: null, topP: 0.5, maxTokens: 7, tools: null };
      return m.requestBody([{ role: "user", content: "q", more: 1 }, answer], settings);"""
    body = call(page, "answer", code)
    call_ = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    assert body == {
        "model": "m",
        "messages": [
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": "x", "tool_calls": [call_]},
        ],
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        "thinking_budget": 0,
        "top_p": 0.5,
        "max_completion_tokens": 7,
    }


def test_several_tokens_in_a_chunk_are_counted_as_the_server_counts_them(page: Any) -> None:
    code = """
      const answer = m.emptyAnswer(512, 0);
      const chunk = (delta, completion_tokens) => ({ choices: [{ delta }], usage: { completion_tokens } });
      m.takeChunk(answer, chunk({ reasoning: "a b c" }, 4), 1000);
      m.takeChunk(answer, chunk({ reasoning: "d e" }, 6), 2000);
      m.takeChunk(answer, chunk({ content: "f g h i" }, 24), 3000);
      const stopped = [m.thoughtTokens(answer), m.figures(answer)];
      const old = { ...answer, stats: { ...answer.stats, numFirst: 0, numTokens: 0 } };
      m.takeChunk(answer, { choices: [], usage: { prompt_tokens: 9, completion_tokens: 25 } }, 3000);
      return [...stopped, m.figures(answer), m.figures(old)];"""
    thoughts, stopped, ended, old = call(page, "answer", code)
    assert thoughts == 6
    assert stopped == ["10.0 tokens/s", "first token after 1.00 s", "24 tokens"]
    assert ended == ["10.5 tokens/s", "first token after 1.00 s", "25 tokens", "0 of 9 prompt tokens cached"]
    assert old == ["0.0 tokens/s", "first token after 1.00 s"]
