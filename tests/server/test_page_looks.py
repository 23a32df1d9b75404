"""How the chat page looks and is handled: themes, keys, narrow screens, long answers."""

import json
from typing import Any

import pytest

from tests.server.browser import (
    Served,
    answered,
    asked,
    choose,
    expect,
    message_field,
    named,
    opened,
    say,
    turns,
)
from tests.server.fake_engine import Script
from tests.server.test_chat import CALL, THOUGHT, TOOLS

pytestmark = pytest.mark.xdist_group("browser")


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
    message_field(page).type("one")
    message_field(page).press("Shift+Enter")
    message_field(page).type("two")
    assert asked(page, lambda: message_field(page).press("Enter"))["messages"][0]["content"] == "one\ntwo"
    answered(page)
    expect(message_field(page)).to_have_value("")
    message_field(page).press("Enter")
    expect(turns(page)).to_have_count(2)


def test_everything_has_a_name_and_the_focus_is_seen(page: Any, served: Served) -> None:
    served.says(Script(THOUGHT + "\n```py\ncode\n```<seed:eos>"))
    say(page)
    page.locator(".skip").focus()
    seen = []
    while (now := page.evaluate(FOCUSED)) is not None and len(seen) < 30:
        seen.append(now)
        page.keyboard.press("Tab")
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
        assert page.evaluate(TOO_WIDE, width) == []
        named(page, "Conversations").click()
        expect(named(page, "Close conversations")).to_be_focused()
        page.keyboard.press("Escape")
        expect(named(page, "Conversations")).to_be_focused()
        named(page, "Settings").click()
        dialog = page.get_by_role("dialog").bounding_box()
        assert dialog["x"] >= 0
        assert dialog["x"] + dialog["width"] <= width


TOO_WIDE = """(width) => {
  const scrolled = [document.documentElement, document.querySelector("#scroller")];
  const outside = [...document.querySelectorAll("main, main button")].filter((one) => one.checkVisibility());
  return [...scrolled.filter((one) => one.scrollWidth > one.clientWidth),
    ...outside.filter((one) => one.getBoundingClientRect().right > width)].map((one) => one.outerHTML.slice(0, 80));
}"""


def test_an_answer_of_10000_lines(page: Any, served: Served) -> None:
    served.says(Script("\n".join(str(number % 10) for number in range(10_000)) + "<seed:eos>", num_together=100))
    page.evaluate(WATCH_FRAMES)
    say(page, waits=False)
    expect(page.locator(".live")).to_have_count(0, timeout=20_000)
    assert page.evaluate("() => document.querySelector('.markdown').textContent.replaceAll('\\n', '').length") == 10_000
    assert page.evaluate("() => window.longest") < 1000
    message_field(page).fill("still there")
    expect(message_field(page)).to_have_value("still there")


WATCH_FRAMES = """() => {
  window.longest = 0;
  let last = performance.now();
  const watch = (now) => {
    window.longest = Math.max(window.longest, now - last);
    last = now;
    requestAnimationFrame(watch);
  };
  requestAnimationFrame(watch);
}"""


def test_the_page_follows_the_text_unless_the_reader_has_gone_up(page: Any, served: Served) -> None:
    text = "\n\n".join(f"Paragraph {number}." for number in range(60))
    served.says(Script(text + "<seed:eos>", num_together=10))
    say(page)
    page.wait_for_function(AT_END)
    page.locator("#scroller").evaluate("(e) => { e.scrollTop = 0 }")
    named(page, "To the newest text").click()
    page.wait_for_function(AT_END)
    expect(named(page, "To the newest text")).to_be_hidden()


AT_END = """() => {
  const { scrollHeight, scrollTop, clientHeight } = document.querySelector("#scroller");
  return scrollHeight - scrollTop - clientHeight < 5;
}"""


def test_code_is_copied(browser: Any, served: Served) -> None:
    served.says("```py\na = 1\n\nb = 2\n```\nDone.<seed:eos>")
    with opened(browser, served.url, permissions=["clipboard-read", "clipboard-write"]) as (page, _):
        say(page)
        named(page, "Copy code").click()
        expect(page.locator(".code-head button")).to_have_text("Copied")
        assert page.evaluate("() => navigator.clipboard.readText()") == "a = 1\n\nb = 2"
