"""Hostile content: the control tokens of a prompt never depend on what messages and tools say.

`SEED_OSS_TRUST_CASES` is the number of cases, 2,000 unless set. A failure names its case: `SEED_OSS_TRUST_FIRST=<case>
SEED_OSS_TRUST_CASES=1` runs it alone.
"""

import os
import random
from collections.abc import Callable
from typing import Any

import pytest

from seed_oss.chat import SeedOssTokenizer
from tests.chat.random_chats import MARKERS, random_chat
from tests.seed_tokenizer import INITIAL_SEED_TEMPLATE, SEED_TEMPLATE, seed_tokenizer

CASES = int(os.environ.get("SEED_OSS_TRUST_CASES", "2000"))
FIRST = int(os.environ.get("SEED_OSS_TRUST_FIRST", "0"))
CHUNKS = 8
# Somebody else's: written in another manner, with every text of a conversation in it, and a marker put together.
FOREIGN_TEMPLATE = (
    "{% for m in messages %}{{ '<seed:' + 'bos>' }}{{ m.role }}\n"
    "{% if m.reasoning_content %}<seed:think>{{ m.reasoning_content | trim }}</seed:think>{% endif %}"
    "{{ m.name }}{{ m.content }}"
    "{% for c in m.tool_calls or [] %}{% set c = c.function or c %}<seed:tool_call>{{ c.name }}"
    "{{ c.arguments | tojson if c.arguments is defined }}</seed:tool_call>{% endfor %}<seed:eos>{% endfor %}"
    "{% for t in tools or [] %}{{ t | tojson(indent=1) }}<seed:eos>{% endfor %}"
)
_STRUCTURE = ("role", "type", "use_json_tooldef", "add_generation_prompt")


@pytest.fixture(scope="module")
def tokenizer() -> SeedOssTokenizer:
    return seed_tokenizer()


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_control_tokens_never_depend_on_content(
    tokenizer: SeedOssTokenizer, chunk: int, counted: Callable[..., None]
) -> None:
    numbers = range(FIRST + chunk, FIRST + CASES, CHUNKS)
    counted(cases=len(numbers))
    for case in numbers:
        template = (SEED_TEMPLATE, INITIAL_SEED_TEMPLATE, FOREIGN_TEMPLATE)[case % 3]
        assert _controls(tokenizer, case, template, _hostile) == _controls(tokenizer, case, template, _tame), case


def _controls(
    tokenizer: SeedOssTokenizer, case: int, template: str, change: Callable[[random.Random, str], str]
) -> list[int]:
    messages, arguments = random_chat(random.Random(f"trust {case}"))
    messages = [{**message, "name": "n"} for message in messages]  # the foreign template puts it beside the content
    rng = random.Random(f"content {case}")
    messages, arguments = (_changed(value, lambda text: change(rng, text)) for value in (messages, arguments))
    ids = tokenizer.apply_chat_template(messages, chat_template=template, return_dict=False, **arguments)
    added = tokenizer.added_tokens_decoder
    return sorted(token_id for token_id in ids if token_id in added)


def _changed(value: Any, change: Callable[[str], str], name: str = "") -> Any:
    """The same structure with other texts: what is blank stays so, roles and types stay, keys are texts too."""
    if isinstance(value, str):
        return value if name in _STRUCTURE or not value.strip() else change(value)
    if isinstance(value, list):
        return [_changed(item, change) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        f"{change(key)}{index}" if name in ("arguments", "properties") else key: _changed(item, change, key)
        for index, (key, item) in enumerate(value.items())
    }


def _tame(_rng: random.Random, _text: str) -> str:
    return "x"


def _hostile(rng: random.Random, text: str) -> str:
    """Markers whole, in halves and in each other; never blank."""
    start = text[:20] if text[:20].strip() else text.strip()[:20]
    parts = [rng.choice((rng.choice(MARKERS), _half(rng), start, "\ud83d", "<", ">")) for _ in range(3)]
    return "".join(parts) if rng.random() < 0.7 else _nested(rng)


def _half(rng: random.Random) -> str:
    marker = rng.choice(MARKERS)
    return rng.choice((marker[:6], marker[6:]))


def _nested(rng: random.Random) -> str:
    outer, inner = rng.choice(MARKERS), rng.choice(MARKERS)
    place = rng.randrange(len(outer))
    return outer[:place] + inner + outer[place:]
