"""The chat page, as its users have it: in a browser, over a server with a scripted engine."""

import json
import re
from typing import Any

import pytest

from seed_oss.engine.messages import Refused
from tests.server.browser import (
    CHAT,
    Served,
    answered,
    asked,
    choose,
    expect,
    message_field,
    named,
    say,
    turns,
)
from tests.server.fake_engine import Script
from tests.server.test_chat import ARGUMENTS, CALL, THOUGHT, TOOLS

pytestmark = pytest.mark.xdist_group("browser")


def test_the_page_begins_empty(page: Any) -> None:
    expect(page.get_by_role("heading", name="What would you like to think about?")).to_be_visible()
    expect(page.get_by_role("button", name="Model and thinking")).to_have_text("seed · thinking: no limit")
    expect(message_field(page)).to_be_focused()
    expect(named(page, "Send")).to_be_disabled()
    page.get_by_role("button", name="Explain why").click()
    expect(message_field(page)).to_be_focused()
    expect(named(page, "Send")).to_be_enabled()


def test_an_answer(page: Any, served: Served) -> None:
    served.says(Script(THOUGHT, num_reasoning=9, num_cached=4))
    body = asked(page, lambda: say(page))
    assert body == {
        "model": "seed",
        "messages": [{"role": "user", "content": "What is 2 + 2?"}],
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        "thinking_budget": -1,
    }
    answered(page)
    expect(message_field(page)).to_be_focused()
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
    assert body["messages"][1]["tool_calls"][0]["function"] == {"name": "fly", "arguments": ARGUMENTS}


@pytest.mark.parametrize("how", ["button", "Escape"])
def test_an_answer_is_stopped(page: Any, served: Served, how: str) -> None:
    served.says("One two three four five.<seed:eos>", hold_after=4)
    say(page, waits=False)
    expect(page.locator(".markdown")).to_have_text(re.compile("^One"))
    expect(named(page, "Send")).to_be_hidden()
    if how == "button":
        named(page, "Stop").click()
    else:
        message_field(page).press("Escape")
    answered(page)
    expect(page.locator(".problem")).to_have_text("You stopped this answer.")
    expect(message_field(page)).to_be_focused()
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


def test_the_servers_errors_are_shown_as_it_says_them(opening: Any, served: Served) -> None:
    page, complaints = opening
    complaints.allowed.append("429")
    message = "8 requests wait, as many as may; try again"
    served.engine.refusal = lambda asked: Refused(asked.request_id, "overloaded", message)
    say(page)
    expect(page.locator(".problem.error")).to_have_text(message)
    served.says("Four.<seed:eos>")
    named(page, "Regenerate").click()
    expect(page.locator(".markdown")).to_have_text("Four.")


def test_an_error_in_mid_answer_keeps_what_came(page: Any, served: Served) -> None:
    served.says(Script("One two", "error", message="the engine is overloaded", kind="overloaded"))
    say(page)
    expect(page.locator(".problem")).to_have_text(re.compile("^the engine is overloaded ?What had come is kept"))
    expect(page.locator(".markdown")).to_have_text("One two")


def test_a_lost_connection_keeps_what_came(opening: Any, served: Served) -> None:
    page, complaints = opening
    complaints.allowed.append("ERR_INCOMPLETE_CHUNKED_ENCODING")
    served.says("One two three four five.<seed:eos>", "Whole.<seed:eos>", hold_after=4)
    say(page, waits=False)
    expect(page.locator(".markdown")).to_have_text(re.compile("^One"))
    served.faults.is_cut = True
    served.go_on()
    answered(page)
    expect(page.locator(".problem")).to_contain_text("The connection was lost in the middle of the answer.")
    expect(page.locator(".markdown")).to_have_text(re.compile("^One"))
    served.faults.is_cut = False
    named(page, "Regenerate").click()
    expect(page.locator(".markdown")).to_have_text("Whole.")


def test_a_stream_without_an_end_is_a_lost_connection(page: Any) -> None:
    chunk = {"choices": [{"index": 0, "delta": {"content": "Half"}, "finish_reason": None}]}
    page.route(f"**{CHAT}", lambda route: route.fulfill(body=f"data: {json.dumps(chunk)}\n\n"))
    say(page)
    expect(page.locator(".problem")).to_contain_text("The connection was lost in the middle of the answer.")
    expect(page.locator(".markdown")).to_have_text("Half")


def test_what_is_no_answer_of_ours_is_said(opening: Any) -> None:
    page, complaints = opening
    complaints.allowed.append("502")
    page.route(f"**{CHAT}", lambda route: route.fulfill(status=502, body="<h1>Bad gateway</h1>"))
    say(page)
    expect(page.locator(".problem")).to_contain_text("The server answered 502")


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
    assert page.locator("#turns :is([onerror], [onclick], [onmouseover], [style])").count() == 0
    assert page.title().startswith("<img src=x")


def test_characters_of_several_bytes(page: Any, served: Served) -> None:
    text = "Grüße 你好 👩‍👩‍👧 नमस्ते"
    served.says(f"<seed:think>{text}</seed:think>{text}<seed:eos>")
    say(page, text)
    expect(page.locator(".markdown")).to_have_text(text)
    expect(page.locator(".said")).to_have_text(text)
