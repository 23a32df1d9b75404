"""Thinking that clients do not send back: kept in memory, so that the next turn's prompt is what was really said.

Without it the prompt cache misses the last turn, and the model has forgotten why it did what it did.
"""

import hashlib
import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, cast

from seed_oss.chat.normalize import call_arguments, text_of
from seed_oss.errors import SeedOssError
from seed_oss.server.parts import Answer

_REASONING = ("reasoning_content", "reasoning")


class Recall:
    """The thinking of the last answers, by what they said.

    Args:
        max_bytes: size of all texts together; the oldest go.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._known: OrderedDict[bytes, str] = OrderedDict()

    def keep(self, namespace: str, answer: Answer) -> None:
        """Remember an answer's thinking."""
        if not answer.reasoning:
            return
        calls = [(call.name, call_arguments(call.arguments, "arguments")) for call in answer.tool_calls]
        key = _key(namespace, answer.content, calls)
        self._drop(key)
        self._known[key] = answer.reasoning
        self._num_bytes += _size(answer.reasoning)
        while self._num_bytes > self._max_bytes:
            self._drop(next(iter(self._known)))

    def filled(self, namespace: str, messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """The messages, with the thinking of those answers that come without and are remembered."""
        return [self._filled(namespace, message) for message in messages]

    def _filled(self, namespace: str, message: Mapping[str, Any]) -> Mapping[str, Any]:
        if message.get("role") != "assistant" or any(message.get(name) for name in _REASONING):
            return message
        try:
            calls = [_call(call) for call in cast("Sequence[Any]", message.get("tool_calls") or ())]
            key = _key(namespace, text_of(message.get("content"), "content"), calls)
        except SeedOssError:
            return message  # whoever reads the messages says what is wrong with them
        reasoning = self._known.get(key)
        if reasoning is None:
            return message
        self._known.move_to_end(key)
        return {**message, "reasoning_content": reasoning}

    def _drop(self, key: bytes) -> None:
        self._num_bytes -= _size(self._known.pop(key, ""))


def _call(call: Any) -> tuple[str, dict[str, Any]]:
    outer = cast("Mapping[str, Any]", call if isinstance(call, Mapping) else {})
    inner: Any = outer.get("function") or outer
    function = cast("Mapping[str, Any]", inner if isinstance(inner, Mapping) else {})
    return str(function.get("name")), call_arguments(function.get("arguments"), "arguments")


def _key(namespace: str, content: str, calls: Sequence[tuple[str, dict[str, Any]]]) -> bytes:
    said = json.dumps([namespace, content.strip(), calls], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(said.encode()).digest()


def _size(text: str) -> int:
    return 4 * len(text)
