"""The chat page, as its users have it: in a browser, over a server with a scripted engine."""

import json
import re
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from seed_oss.engine.messages import Refused
from tests.server.browser import CHAT, KEY, Complaints, Served, browsing, opened, serving
from tests.server.fake_engine import Script
from tests.server.test_chat import CALL, THOUGHT, TOOLS

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
expect = sync_api.expect
pytestmark = pytest.mark.xdist_group("browser")


@pytest.fixture(scope="module")
def served() -> Generator[Served, None, None]:
    """The server of all tests here."""
    with serving() as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Generator[Any, None, None]:
    """The browser of all tests here."""
    with browsing() as started:
        yield started


@pytest.fixture
def opening(browser: Any, served: Served) -> Generator[tuple[Any, Complaints], None, None]:
    """A page, and what it may complain about."""
    served.says()
    with opened(browser, served.url) as both:
        yield both


@pytest.fixture
def page(opening: tuple[Any, Complaints]) -> Any:
    """A page that has nothing to complain about."""
    return opening[0]


def field(page: Any) -> Any:
    """Where a message is written."""
    return page.get_by_label("Message", exact=True)


def named(page: Any, name: str) -> Any:
    """A button."""
    return page.get_by_role("button", name=name, exact=True)


def turns(page: Any) -> Any:
    """What was said."""
    return page.locator(".turn")


def say(page: Any, text: str = "What is 2 + 2?", *, waits: bool = True) -> None:
    """Send a message, and wait for the whole answer."""
    field(page).fill(text)
    field(page).press("Enter")
    if waits:
        answered(page)


def answered(page: Any) -> None:
    """Wait until no answer is coming."""
    expect(page.locator(".live")).to_have_count(0)


def choose(page: Any, **fields: str) -> None:
    """Change settings by the ids of their fields."""
    named(page, "Settings").click()
    page.locator("#settings summary").click()
    for name, value in fields.items():
        control = page.locator(f"#{name.replace('_', '-')}")
        control.select_option(value) if name in ("model", "budget") else control.fill(value)
    named(page, "Save").click()


def asked(page: Any, work: Any) -> Any:
    """The body of the request that some work sends."""
    with page.expect_request(f"**{CHAT}") as sent:
        work()
    return json.loads(sent.value.post_data)


def test_the_page_begins_empty(page: Any) -> None:
    expect(page.get_by_role("heading", name="What would you like to think about?")).to_be_visible()
    expect(page.get_by_role("button", name="Model and thinking")).to_have_text("seed · thinking: no limit")
    expect(field(page)).to_be_focused()
    expect(named(page, "Send")).to_be_disabled()
    page.get_by_role("button", name="Explain why").click()
    expect(field(page)).to_be_focused()
    expect(named(page, "Send")).to_be_enabled()


def test_an_answer(page: Any, served: Served) -> None:
    served.says(Script(THOUGHT, num_reasoning=9, num_cached=4))
    body = asked(page, lambda: say(page))
    assert body == {
        "model": "seed",
        "messages": [{"role": "user", "content": "What is 2 + 2?"}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "thinking_budget": -1,
    }
    answered(page)
    expect(page.locator(".markdown")).to_have_text("Four.")
    expect(page.locator(".thinking")).not_to_have_attribute("open", "")
    expect(page.locator(".thinking-count")).to_have_text("9 tokens")
    expect(page.locator(".thinking progress")).to_be_hidden()
    page.locator(".thinking summary").click()
    expect(page.get_by_role("region", name="Thoughts")).to_have_text("Two and two.")
    number, cached = len(served.engine.encode(THOUGHT)), f"4 of {len(served.engine.submits[0].prompt_ids)}"
    pattern = rf"[\d,.]+ tokens/s · first token after \d+\.\d\d s · {number} tokens · {cached} prompt tokens cached"
    expect(page.locator(".figures")).to_have_text(re.compile(pattern))
    expect(page.get_by_role("heading", name="What would you like")).to_be_hidden()
    expect(field(page)).to_be_focused()


def test_the_budget_fills_while_the_model_thinks(page: Any, served: Served) -> None:
    served.says(Script(THOUGHT, num_reasoning=100), hold_after=6)
    choose(page, budget="512")
    assert asked(page, lambda: say(page, waits=False))["thinking_budget"] == 512
    expect(page.locator(".thinking-count")).to_have_text(re.compile(r"^[1-9] of 512 tokens$"))
    expect(page.get_by_role("log")).to_have_attribute("aria-busy", "true")
    served.go_on()
    expect(page.locator(".thinking-count")).to_have_text("100 of 512 tokens")
    bar = page.get_by_label("Thinking budget used")
    assert bar.evaluate("(bar) => bar.value / bar.max") == pytest.approx(100 / 512)
    expect(page.get_by_role("log")).to_have_attribute("aria-busy", "false")


def test_every_budget_can_be_chosen(page: Any) -> None:
    names = page.locator("#budget option").all_text_contents()
    assert names == ["no limit", "0", "512", "1K", "2K", "4K", "8K", "16K"]


def test_a_tool_call_is_shown_and_not_run(page: Any, served: Served) -> None:
    served.says(f"<seed:think>Up.</seed:think>Going.{CALL}<seed:eos>", "Done.<seed:eos>")
    choose(page, tools=json.dumps(TOOLS))
    assert asked(page, lambda: say(page, "Fly"))["tools"] == TOOLS
    answered(page)
    card = page.get_by_role("region", name="Tool call, not run")
    expect(card.locator(".call-name")).to_have_text("fly")
    assert card.locator("code").inner_text() == '{\n  "height": 3,\n  "note": "a\\nb"\n}'
    assert len(served.engine.submits) == 1
    body = asked(page, lambda: say(page, "And now?"))
    assert body["messages"][1]["tool_calls"][0]["function"] == {"name": "fly", "arguments": '{"height": 3, "note": "a\\nb"}'}


@pytest.mark.parametrize("how", ["button", "Escape"])
def test_an_answer_is_stopped(page: Any, served: Served, how: str) -> None:
    served.says("One two three four five.<seed:eos>", hold_after=4)
    say(page, waits=False)
    expect(page.locator(".markdown")).to_have_text(re.compile("^One"))
    expect(named(page, "Send")).to_be_hidden()
    if how == "button":
        named(page, "Stop").click()
    else:
        field(page).press("Escape")
    answered(page)
    expect(page.locator(".problem")).to_have_text("You stopped this answer.")
    expect(field(page)).to_be_focused()
    expect(named(page, "Stop")).to_be_hidden()
    page.wait_for_function("() => !document.body.classList.contains('busy')")
    assert page.locator(".markdown").inner_text().startswith("One")


def test_the_engine_is_told_that_an_answer_was_stopped(page: Any, served: Served) -> None:
    served.says("One two three four five.<seed:eos>", hold_after=4)
    say(page, waits=False)
    expect(page.locator(".markdown")).to_have_text(re.compile("^One"))
    named(page, "Stop").click()
    served.until_closed()
    assert len(served.engine.closed) == 1


def test_a_conversation_goes_on(page: Any, served: Served) -> None:
    served.says("Four.<seed:eos>", "Six.<seed:eos>")
    say(page, "2 + 2?")
    body = asked(page, lambda: say(page, "And 2 more?"))
    assert [(one["role"], one["content"]) for one in body["messages"]] == [
        ("user", "2 + 2?"),
        ("assistant", "Four."),
        ("user", "And 2 more?"),
    ]
    answered(page)
    expect(page.locator(".markdown")).to_have_text(["Four.", "Six."])


def test_a_message_is_changed(page: Any, served: Served) -> None:
    served.says("Four.<seed:eos>", "Six.<seed:eos>", "Nine.<seed:eos>")
    say(page, "2 + 2?")
    say(page, "And 2 more?")
    named(page, "Edit this message").first.click()
    changed = page.get_by_label("Changed message")
    expect(changed).to_be_focused()
    changed.press("Escape")
    expect(named(page, "Edit this message").first).to_be_focused()
    named(page, "Edit this message").first.click()
    changed.fill("3 * 3?")
    body = asked(page, lambda: changed.press("Enter"))
    assert body["messages"] == [{"role": "user", "content": "3 * 3?"}]
    answered(page)
    expect(turns(page)).to_have_count(2)
    expect(page.locator(".said")).to_have_text("3 * 3?")
    expect(page.locator(".markdown")).to_have_text("Nine.")


def test_an_answer_is_asked_for_again(page: Any, served: Served) -> None:
    served.says("Four.<seed:eos>", "IV.<seed:eos>")
    say(page)
    named(page, "Regenerate").click()
    expect(page.locator(".markdown")).to_have_text("IV.")
    expect(turns(page)).to_have_count(2)
    assert served.prompt(0) == served.prompt(1)


def test_settings_are_sent_and_kept(page: Any) -> None:
    choose(page, model="other-name", temperature="0.5", top_p="0.9", max_tokens="77", system="Be brief.", budget="0")
    page.reload()
    body = asked(page, lambda: say(page))
    assert (body["model"], body["temperature"], body["top_p"]) == ("other-name", 0.5, 0.9)
    assert (body["max_completion_tokens"], body["thinking_budget"]) == (77, 0)
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}


def test_a_setting_that_cannot_be_is_said(page: Any) -> None:
    choose(page, temperature="3")
    expect(page.get_by_role("alert")).to_have_text("Temperature is 3; allowed are 0 to 2, or nothing.")
    named(page, "Cancel").click()
    assert "temperature" not in asked(page, lambda: say(page))


def test_a_key_is_asked_for_and_kept_for_the_tab(opening: Any, served: Served) -> None:
    page, complaints = opening
    complaints.allowed.append("401")
    served.faults.key = KEY
    page.reload()
    expect(page.get_by_role("alert")).to_have_text("This server asks for an API key: give it in the settings.")
    choose(page, api_key=KEY)
    expect(page.get_by_role("button", name="Model and thinking")).to_contain_text("seed")
    expect(page.get_by_role("alert")).to_be_hidden()
    say(page)
    expect(page.locator(".markdown")).to_have_text("Four.")
    assert KEY not in page.evaluate("() => JSON.stringify({...localStorage})")
    page.reload()
    say(page, "Again")
    other = page.context.new_page()
    other.goto(served.url)
    expect(other.get_by_role("alert")).to_be_visible()


def test_a_key_is_remembered_if_the_user_says_so(page: Any) -> None:
    named(page, "Settings").click()
    page.get_by_label("API key", exact=True).fill(KEY)
    page.get_by_label("Remember the key in this browser").check()
    named(page, "Save").click()
    assert page.evaluate("() => localStorage.getItem('seed-oss.api-key')") == KEY
    named(page, "Settings").click()
    page.get_by_label("Remember the key in this browser").uncheck()
    named(page, "Save").click()
    assert KEY not in page.evaluate("() => JSON.stringify({...localStorage})")


def conversations(page: Any) -> Any:
    """The titles at the side."""
    return page.locator("#conversations .open")


def test_conversations_are_kept(page: Any) -> None:
    say(page, "First question")
    named(page, "New conversation").click()
    expect(turns(page)).to_have_count(0)
    say(page, "Second question")
    expect(conversations(page)).to_have_text(["Second question", "First question"])
    page.reload()
    expect(page.get_by_role("heading", name="What would you like")).to_be_visible()
    conversations(page).nth(1).click()
    expect(page.locator(".said")).to_have_text("First question")
    expect(page.locator(".markdown")).to_have_text("Four.")
    expect(page.get_by_role("heading", level=1)).to_have_text("First question")
    expect(conversations(page).nth(1)).to_have_attribute("aria-current", "page")


def test_a_conversation_is_deleted(page: Any) -> None:
    say(page, "Forget me")
    named(page, "Delete Forget me").click()
    expect(page.get_by_role("dialog")).to_contain_text("Delete “Forget me”?")
    named(page, "Cancel").click()
    expect(conversations(page)).to_have_count(1)
    named(page, "Delete Forget me").click()
    named(page, "Delete").click()
    expect(conversations(page)).to_have_count(0)
    expect(turns(page)).to_have_count(0)
    assert "Forget me" not in page.evaluate("() => JSON.stringify({...localStorage})")


def test_what_is_deleted_while_its_answer_comes_stays_away(page: Any, served: Served) -> None:
    served.says("One two three four five.<seed:eos>", hold_after=4)
    say(page, "Forget me", waits=False)
    named(page, "Delete Forget me").click()
    named(page, "Delete").click()
    served.until_closed()
    page.wait_for_function("() => !document.body.classList.contains('busy')")
    expect(conversations(page)).to_have_count(0)
    assert "Forget me" not in page.evaluate("() => JSON.stringify({...localStorage})")


def test_conversations_go_out_and_in(page: Any, served: Served, browser: Any, tmp_path: Path) -> None:
    served.says(Script(THOUGHT, num_reasoning=9))
    say(page, "Keep me")
    with page.expect_download() as download:
        named(page, "Export").click()
    file = tmp_path / "out.json"
    download.value.save_as(file)
    assert json.loads(file.read_text(encoding="utf-8"))["conversations"][0]["title"] == "Keep me"
    with opened(browser, served.url) as (other, _):
        other.locator("#import-file").set_input_files(file)
        conversations(other).click()
        expect(other.locator(".said")).to_have_text("Keep me")
        expect(other.locator(".markdown")).to_have_text("Four.")
        expect(other.locator(".thinking-count")).to_have_text("9 tokens")
        file.write_text("{}", encoding="utf-8")
        other.locator("#import-file").set_input_files(file)
        expect(other.get_by_role("alert")).to_contain_text("The file has no conversations of this page")


def test_a_full_store_is_said_and_the_conversation_goes_on(page: Any, served: Served) -> None:
    served.says("One.<seed:eos>")
    page.evaluate(
        "() => localStorage.setItem('seed-oss.chat.big', JSON.stringify({id: 'big', title: 'big', updated: 1, "
        "turns: [{role: 'user', content: 'x'.repeat(3_999_900)}]}))"
    )
    say(page, "No room")
    expect(page.get_by_role("alert")).to_contain_text("Export your conversations and delete some")
    expect(page.locator(".markdown")).to_have_text("One.")
    expect(conversations(page).first).to_have_text("No room")
    named(page, "Delete big").click()
    named(page, "Delete").click()
    say(page, "Room")
    assert "Room" in page.evaluate("() => JSON.stringify({...localStorage})")


def test_what_came_is_kept_when_the_page_is_left(page: Any, served: Served) -> None:
    served.says("One two three four five.<seed:eos>", hold_after=4)
    say(page, "Left", waits=False)
    expect(page.locator(".markdown")).to_have_text(re.compile("^One"))
    page.reload()
    conversations(page).click()
    expect(page.locator(".markdown")).to_have_text(re.compile("^One"))


def test_the_theme_is_the_systems_or_the_switchs(browser: Any, served: Served) -> None:
    ground = "() => getComputedStyle(document.body).backgroundColor"
    with opened(browser, served.url, color_scheme="dark") as (page, _):
        dark = page.evaluate(ground)
        named(page, "Switch to light").click()
        light = page.evaluate(ground)
        assert light != dark
        page.reload()
        assert page.evaluate(ground) == light
        named(page, "Switch to dark").click()
        assert page.evaluate(ground) == dark
    with opened(browser, served.url, color_scheme="light") as (page, _):
        assert page.evaluate(ground) == light


def test_enter_sends_and_shift_enter_breaks_the_line(page: Any) -> None:
    field(page).type("one")
    field(page).press("Shift+Enter")
    field(page).type("two")
    assert asked(page, lambda: field(page).press("Enter"))["messages"][0]["content"] == "one\ntwo"
    answered(page)
    expect(field(page)).to_have_value("")
    field(page).press("Enter")
    expect(turns(page)).to_have_count(2)


def test_everything_has_a_name_and_the_focus_is_seen(page: Any, served: Served) -> None:
    served.says(Script(THOUGHT + "\n```py\ncode\n```<seed:eos>"))
    say(page)
    page.locator("body").evaluate("(body) => { document.activeElement.blur(); body.focus(); }")
    seen = []
    for _ in range(30):
        page.keyboard.press("Tab")
        now = page.evaluate(FOCUSED)
        if now is None or now in seen:
            break
        seen.append(now)
    names = [name for name, _ in seen]
    assert all(names), names
    assert all(is_seen for _, is_seen in seen), seen
    order = ["To the message field", "New conversation", "What is 2 + 2?", "Delete What is 2 + 2?", "Export", "Import"]
    order += ["Switch to dark", "Settings", "Edit this message", "Thought", "Copy answer", "Regenerate", "Message"]
    places = [next(at for at, name in enumerate(names) if name.startswith(wanted)) for wanted in order]
    assert places == sorted(places), names


FOCUSED = """() => {
  const node = document.activeElement;
  if (!node || node === document.body) return null;
  const name = node.ariaLabel || node.labels?.[0]?.textContent || node.textContent.trim();
  const style = getComputedStyle(node);
  const frame = getComputedStyle(node.closest("#composer") ?? node);
  return [name, [style, frame].some((one) => one.outlineStyle !== "none" && parseFloat(one.outlineWidth) >= 1)];
}"""


def test_text_has_enough_contrast(browser: Any, served: Served) -> None:
    for scheme in ("light", "dark"):
        served.says(f"{THOUGHT.removesuffix('<seed:eos>')} `code` [a](https://a.example) " + CALL + "<seed:eos>")
        with opened(browser, served.url, color_scheme=scheme) as (page, _):
            choose(page, tools=json.dumps(TOOLS))
            say(page)
            named(page, "Settings").click()
            low = [found for found in page.evaluate(CONTRASTS) if found[0] < 4.5]
            assert low == [], scheme


CONTRASTS = """() => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const rgb = (colors) => {
    canvas.clearRect(0, 0, 1, 1);
    for (const color of colors) { canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1); }
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = (color) => {
    const [r, g, b] = color.map((c) => c / 255).map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const grounds = (node) => node ? [...grounds(node.parentElement), getComputedStyle(node).backgroundColor] : [];
  const found = [];
  for (const node of document.querySelectorAll("body *")) {
    const hasText = [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
    if (!hasText || !node.checkVisibility() || node.matches(":disabled, option, .skip")) continue;
    const behind = grounds(node);
    const [one, other] = [light(rgb(behind)), light(rgb([...behind, getComputedStyle(node).color]))];
    found.push([(Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05), node.textContent.slice(0, 40)]);
  }
  return found;
}"""


@pytest.mark.parametrize("width", [320, 375])
def test_a_phone_shows_everything_without_scrolling_sideways(browser: Any, served: Served, width: int) -> None:
    text = f"{'x' * 400} `{'y' * 300}`\n\n```\n{'z' * 300}\n```\n\n- {'w' * 300}\n\n{CALL}<seed:eos>"
    served.says(f"<seed:think>{'t' * 300}</seed:think>" + text)
    with opened(browser, served.url, viewport={"width": width, "height": 640}) as (page, _):
        choose(page, tools=json.dumps(TOOLS))
        say(page, "q" * 500)
        page.locator(".thinking summary").click()
        wide = "() => [document.documentElement, document.querySelector('#scroller')].map((e) => e.scrollWidth - e.clientWidth)"
        assert page.evaluate(wide) == [0, 0]
        outside = "(width) => [...document.querySelectorAll('main, main button')].filter((e) => e.checkVisibility() && e.getBoundingClientRect().right > width).length"
        assert page.evaluate(outside, width) == 0
        named(page, "Conversations").click()
        expect(named(page, "Close conversations")).to_be_focused()
        page.keyboard.press("Escape")
        expect(named(page, "Conversations")).to_be_focused()
        named(page, "Settings").click()
        dialog = page.get_by_role("dialog").bounding_box()
        assert dialog["x"] >= 0
        assert dialog["x"] + dialog["width"] <= width


def test_the_servers_errors_are_shown_as_it_says_them(opening: Any, served: Served) -> None:
    page, complaints = opening
    complaints.allowed.append("429")
    served.engine.refusal = lambda asked: Refused(asked.request_id, "overloaded", "8 requests wait, as many as may; try again")
    say(page)
    expect(page.locator(".problem.error")).to_have_text("8 requests wait, as many as may; try again")
    served.says("Four.<seed:eos>")
    named(page, "Regenerate").click()
    expect(page.locator(".markdown")).to_have_text("Four.")


def test_an_error_in_mid_answer_keeps_what_came(page: Any, served: Served) -> None:
    served.says(Script("One two", "error", message="the engine is overloaded", kind="overloaded"))
    say(page)
    expect(page.locator(".problem")).to_contain_text("the engine is overloaded What had come is kept")
    expect(page.locator(".markdown")).to_have_text("One two")


def test_a_lost_connection_keeps_what_came(opening: Any, served: Served) -> None:
    page, complaints = opening
    complaints.allowed.append("ERR_INCOMPLETE_CHUNKED_ENCODING")
    served.says("One two three four five.<seed:eos>", "Whole.<seed:eos>")
    served.faults.break_after = 5
    say(page)
    expect(page.locator(".problem")).to_contain_text("The connection was lost in the middle of the answer.")
    expect(page.locator(".markdown")).to_have_text(re.compile("^One"))
    served.faults.break_after = None
    named(page, "Regenerate").click()
    expect(page.locator(".markdown")).to_have_text("Whole.")


def test_an_answer_that_is_cut_off_says_so(page: Any, served: Served) -> None:
    served.says(Script("One two", "length"))
    say(page)
    expect(page.locator(".problem")).to_have_text("The answer was cut off at its limit of tokens.")


def test_comments_keep_a_slow_stream_alive(page: Any, served: Served) -> None:
    served.says("One two three.<seed:eos>", hold_after=2)
    with page.expect_response(f"**{CHAT}") as response:
        say(page, waits=False)
    expect(page.locator(".markdown")).to_have_text(re.compile("^O"))
    served.until_kept_alive()
    served.go_on()
    answered(page)
    assert ": keep-alive" in response.value.text()
    expect(page.locator(".markdown")).to_have_text("One two three.")


HOSTILE = """<img src=x onerror="document.title='hacked'"><script>document.title='hacked'</script>
[click](javascript:document.title='hacked') <a href="javascript:0">x</a>

```html"onmouseover="x
<iframe src="javascript:0"></iframe>
```
- <svg onload=alert(1)> **<b onclick=x>**
"""


def test_hostile_text_is_text(page: Any, served: Served) -> None:
    served.says(f"<seed:think>{HOSTILE}</seed:think>{HOSTILE}<seed:eos>")
    say(page, HOSTILE)
    assert page.locator("#turns :is(img, script, iframe, svg, b, a)").count() == 0
    expect(page.locator(".markdown")).to_contain_text("<img src=x onerror=")
    expect(page.locator(".markdown pre")).to_have_text('<iframe src="javascript:0"></iframe>')
    assert "hacked" not in page.title().replace(HOSTILE.split("\n")[0][:60], "")
    assert page.evaluate("() => document.querySelectorAll('#turns [onerror], #turns [onclick], #turns [style]').length") == 0


def test_characters_of_several_bytes(page: Any, served: Served) -> None:
    text = "Grüße 你好 👩‍👩‍👧 नमस्ते"
    served.says(f"<seed:think>{text}</seed:think>{text}<seed:eos>")
    say(page, text)
    expect(page.locator(".markdown")).to_have_text(text)
    expect(page.locator(".said")).to_have_text(text)


def test_an_answer_of_10000_lines(page: Any, served: Served) -> None:
    lines = [f"{number} ok" for number in range(10_000)]
    served.says(Script("\n".join(lines) + "<seed:eos>", num_together=500))
    page.evaluate(WATCH_FRAMES)
    say(page, waits=False)
    expect(page.locator(".live")).to_have_count(0, timeout=20_000)
    assert page.locator(".markdown").text_content().endswith("9999 ok")
    assert page.evaluate("() => window.longest") < 1000
    field(page).fill("still there")
    expect(field(page)).to_have_value("still there")


WATCH_FRAMES = """() => {
  window.longest = 0;
  let last = performance.now();
  const watch = (now) => { window.longest = Math.max(window.longest, now - last); last = now; requestAnimationFrame(watch); };
  requestAnimationFrame(watch);
}"""


def test_the_page_follows_the_text_unless_the_reader_has_gone_up(page: Any, served: Served) -> None:
    text = "\n\n".join(f"Paragraph {number}." for number in range(60))
    served.says(Script(text + "<seed:eos>", num_together=10))
    say(page)
    at_end = "() => { const e = document.querySelector('#scroller'); return e.scrollHeight - e.scrollTop - e.clientHeight < 5 }"
    page.wait_for_function(at_end)
    page.locator("#scroller").evaluate("(e) => { e.scrollTop = 0 }")
    named(page, "To the newest text").click()
    page.wait_for_function(at_end)
    expect(named(page, "To the newest text")).to_be_hidden()


def test_code_is_copied(browser: Any, served: Served) -> None:
    served.says("```py\na = 1\n\nb = 2\n```\nDone.<seed:eos>")
    with opened(browser, served.url, permissions=["clipboard-read", "clipboard-write"]) as (page, _):
        say(page)
        named(page, "Copy code").click()
        expect(page.locator(".code-head button")).to_have_text("Copied")
        assert page.evaluate("() => navigator.clipboard.readText()") == "a = 1\n\nb = 2"
