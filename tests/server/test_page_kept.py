"""What the chat page keeps in the browser: settings, keys and conversations."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.server.browser import (
    KEY,
    Served,
    asked,
    choose,
    conversations,
    expect,
    named,
    opened,
    say,
    turns,
)
from tests.server.fake_engine import Script
from tests.server.test_chat import THOUGHT

pytestmark = pytest.mark.xdist_group("browser")


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


def test_a_damaged_conversation_is_said(page: Any) -> None:
    page.evaluate(
        "() => { const put = (id, turns) => localStorage.setItem(`seed-oss.chat.${id}`, JSON.stringify({title: id, id, "
        "turns}));"
        "put('gone', []); put('odd', [{role: 'judge'}]); put('bare', [{role: 'assistant', ended: 'constructor'}]); }"
    )
    page.reload()
    page.evaluate("() => localStorage.removeItem('seed-oss.chat.gone')")
    conversations(page).filter(has_text="gone").click()
    expect(page.get_by_role("alert")).to_have_text("This conversation is no longer in the browser.")
    conversations(page).filter(has_text="odd").click()
    expect(page.get_by_role("alert")).to_contain_text("neither user nor assistant")
    conversations(page).filter(has_text="bare").click()
    expect(page.locator(".problem")).to_have_text("The model said nothing.")
