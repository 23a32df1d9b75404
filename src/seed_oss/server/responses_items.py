"""The items of a response, while they come: each part of an answer to its events."""

import secrets
from collections.abc import Iterable
from typing import Any

from seed_oss.server.parts import (
    AllThinkingPart,
    ArgumentsPart,
    CallEndPart,
    CallPart,
    ContentPart,
    Part,
    ReasoningPart,
)

Event = dict[str, Any]


class ItemWriter:
    """Gathers items, and says what happens to them.

    Args:
        is_streamed: the events are sent, so that nothing can be taken back.

    Attributes:
        items: so far.
    """

    def __init__(self, *, is_streamed: bool) -> None:
        self.items: list[dict[str, Any]] = []
        self._is_streamed = is_streamed
        self._texts: list[str] = []  # of the item that is open
        self._open: dict[str, Any] | None = None
        self._num_shown = 0  # items that were announced

    def take(self, parts: Iterable[Part]) -> list[Event]:
        """The events of some parts."""
        return [event for part in parts for event in self._take(part)]

    def finish(self, status: str) -> list[Event]:
        """Nothing follows.

        Args:
            status: of the item that is still open.
        """
        return self._close(status)

    def _take(self, part: Part) -> list[Event]:
        if isinstance(part, ReasoningPart):
            return [*self._switch("reasoning"), *self._more("response.reasoning_text.delta", part.text)]
        if isinstance(part, ContentPart):
            return [*self._switch("message"), *self._more("response.output_text.delta", part.text)]
        if isinstance(part, CallPart):
            item = {"type": "function_call", "call_id": part.id, "name": part.name, "arguments": ""}
            return [*self._close("completed"), *self._add("fc", item)]
        if isinstance(part, ArgumentsPart):
            return self._more("response.function_call_arguments.delta", part.text)
        if isinstance(part, CallEndPart):
            is_dropped = not part.is_whole and not part.is_cut
            return self._close("completed" if part.is_whole else "incomplete", is_dropped=is_dropped)
        return self._all_was_thinking(part)

    def _all_was_thinking(self, part: AllThinkingPart) -> list[Event]:
        if self._is_streamed:
            return []  # it has been shown as text
        self.items, self._open = [], None
        return [*self._take(ReasoningPart(part.text)), *self._close("completed")] if part.text else []

    def _switch(self, kind: str) -> list[Event]:
        if self._open is not None and self._open["type"] == kind:
            return []
        before = self._close("completed")
        if kind == "reasoning":
            item: dict[str, Any] = {"type": kind, "summary": [], "content": []}
            return [*before, *self._add("rs", item)]
        item = {"type": kind, "role": "assistant", "content": []}
        return [*before, *self._add("msg", item), self._part("added", "")]

    def _add(self, prefix: str, item: dict[str, Any]) -> list[Event]:
        item = {"id": f"{prefix}_{secrets.token_hex(12)}", **item, "status": "in_progress"}
        self.items.append(item)
        self._open, self._texts = item, []
        self._num_shown += 1
        return [{"type": "response.output_item.added", "output_index": self._index, "item": dict(item)}]

    def _more(self, kind: str, text: str) -> list[Event]:
        if self._open is None:
            return []
        self._texts.append(text)
        logprobs: Event = {"logprobs": []} if kind == "response.output_text.delta" else {}
        return [{"type": kind, **self._place(), "delta": text, **logprobs}]

    def _close(self, status: str, *, is_dropped: bool = False) -> list[Event]:
        """The item that is open is done; a broken call is none, and its text comes as content."""
        item = self._open
        if item is None:
            return []
        text = "".join(self._texts)
        events = self._done(item, text)
        item["status"] = status
        events.append({"type": "response.output_item.done", "output_index": self._index, "item": dict(item)})
        if is_dropped:
            self.items.remove(item)
        self._open = None
        return events

    def _done(self, item: dict[str, Any], text: str) -> list[Event]:
        """The events that end what is in an item."""
        if item["type"] == "function_call":
            item["arguments"] = text
            return [
                {
                    "type": "response.function_call_arguments.done",
                    **self._place(),
                    "name": item["name"],
                    "arguments": text,
                }
            ]
        if item["type"] == "reasoning":
            item["content"] = [{"type": "reasoning_text", "text": text}]
            return [{"type": "response.reasoning_text.done", **self._place(), "text": text}]
        item["content"] = [_output_text(text)]
        done: Event = {"type": "response.output_text.done", **self._place(), "text": text, "logprobs": []}
        return [done, self._part("done", text)]

    def _part(self, what: str, text: str) -> Event:
        return {"type": f"response.content_part.{what}", **self._place(), "part": _output_text(text)}

    def _place(self) -> dict[str, Any]:
        item = self._open or {}
        inner = {} if item.get("type") == "function_call" else {"content_index": 0}
        return {"item_id": item.get("id"), "output_index": self._index, **inner}

    @property
    def _index(self) -> int:
        return self._num_shown - 1


def _output_text(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
