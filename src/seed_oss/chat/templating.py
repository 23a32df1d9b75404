"""Chat messages to text through a checkpoint's own template."""

import copy
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, cast

from seed_oss.chat.foreign_messages import TemplateHabits, foreign_documents, foreign_message, foreign_tools
from seed_oss.chat.normalize import REASONING_FIELDS, kind_of
from seed_oss.chat.plain_data import plain_data
from seed_oss.chat.template_process import SHARED, RenderLimits
from seed_oss.errors import TemplateError
from seed_oss.files.names import escaped

LIMITS = RenderLimits()


def split_conversations(conversation: Any) -> tuple[list[list[Any]], bool]:
    """One conversation or a batch of them.

    Returns:
        The conversations, and whether a batch was given.

    Raises:
        TemplateError: It is no list of messages, or empty.
    """
    items = list(cast("Sequence[Any]", conversation)) if isinstance(conversation, list | tuple) else []
    if not items:
        is_empty = isinstance(conversation, list | tuple)
        given = "an empty one" if is_empty else f"a {type(cast('object', conversation)).__name__}"
        raise TemplateError(f"a conversation is a list of at least one message, got {given}")
    if isinstance(items[0], list | tuple):
        batch = [list(cast("Sequence[Any]", item)) if isinstance(item, list | tuple) else [] for item in items]
        if not all(batch):
            raise TemplateError(f"conversation {batch.index([])} of the batch is empty or no list of messages")
        return batch, True
    return [items], False


def choose_template(own: str | Mapping[str, str] | None, asked: str | None, *, with_tools: bool) -> str:
    """The template to use: the one asked for by name or text, else the checkpoint's own for tools or for anything.

    Raises:
        TemplateError: There is none.
    """
    if asked is not None and not isinstance(cast("object", asked), str):
        raise TemplateError(f"chat_template must be the text or the name of a template, got {kind_of(asked)}")
    named: Mapping[str, str] = own if isinstance(own, Mapping) else {}
    if asked is not None:
        return named.get(asked, asked)
    if isinstance(own, str):
        return own
    if with_tools and "tool_use" in named:
        return named["tool_use"]
    if "default" in named:
        return named["default"]
    if named:
        raise TemplateError(f"pass the name of a template as chat_template=: {escaped(', '.join(sorted(named)))}")
    raise TemplateError(
        "this tokenizer has no chat template; pass one as chat_template=, or set tokenizer.chat_template"
    )


def client_values(
    template: str,
    messages: Sequence[Any],
    *,
    tools: Sequence[Any] | None,
    documents: Sequence[Any] | None,
    variables: Mapping[str, Any],
) -> dict[str, Any]:
    """What a client gave, as a template may see it.

    Args:
        template: The template's text, which shows what form it reads.
        messages: Messages: mappings, dataclasses or pydantic models. Fields that are None are left out, content is
            text, arguments of calls are a mapping; reasoning given under another name is given under
            `reasoning_content` and `thinking` too.
        tools: Tools as JSON schemas.
        documents: Documents as mappings.
        variables: Further variables of the template.

    Raises:
        TemplateError: A value is no plain data, or nothing that the model can read; the message names the place.
    """
    habits = TemplateHabits.of(template)
    return {
        "messages": [foreign_message(each, f"messages[{index}]", habits) for index, each in enumerate(messages)],
        "tools": foreign_tools(tools),
        "documents": foreign_documents(documents),
        **{str(name): plain_data(value, str(name)) for name, value in variables.items()},
    }


def render_values(
    template: str,
    values: Mapping[str, Any],
    *,
    special_tokens: Mapping[str, str],
    add_generation_prompt: bool,
    continue_final_message: bool | str,
    marks: tuple[str, str] | None = None,
    limits: RenderLimits = LIMITS,
) -> str:
    """Render one conversation.

    Args:
        template: The template's text.
        values: What `client_values` returned.
        special_tokens: The tokenizer's special tokens by name; `values` go before them.
        add_generation_prompt: Whether the template is asked to open the assistant's turn.
        continue_final_message: Whether the text ends where the last message ends, so that the model goes on with it;
            a string names the field to continue.
        marks: Put before and after what each generation block renders.
        limits: What rendering may take.

    Raises:
        TemplateError: The template cannot render the messages, or exceeds a limit.
    """
    given: dict[str, Any] = {"add_generation_prompt": bool(add_generation_prompt), **special_tokens, **values}
    if not continue_final_message:
        return SHARED.render(template, given, limits, marks)
    field = continue_final_message if isinstance(continue_final_message, str) else "content"
    marker = f"CONTINUE{secrets.token_hex(8)} "
    messages: list[Any] = list(values["messages"])
    messages[-1] = copy.deepcopy(messages[-1])
    final = _mark_end(messages[-1], field, marker)
    text = SHARED.render(template, {**given, "messages": messages}, limits, marks)
    return _cut_at_marker(text, marker, final, field)


def _mark_end(message: dict[str, Any], field: str, marker: str) -> str:
    """Append the marker to the field of the last message, under all its names; return what the field held."""
    content: Any = message.get(field)
    if isinstance(content, list):
        blocks = [cast("dict[str, Any]", b) for b in cast("list[Any]", content) if isinstance(b, dict)]
        block = next((b for b in reversed(blocks) if isinstance(b.get("text"), str)), None)
        if block is not None:
            final = block["text"]
            block["text"] = final + marker
            return final
    if not isinstance(content, str):
        raise TemplateError(f"continue_final_message needs text in {field!r} of the last message")
    for name in REASONING_FIELDS if field in REASONING_FIELDS else (field,):
        if message.get(name) == content:
            message[name] = content + marker
    return content


def _cut_at_marker(text: str, marker: str, final: str, field: str) -> str:
    place = text.rfind(marker.strip())
    if place < 0 or final.strip() not in text[:place]:
        raise TemplateError(
            f"continue_final_message: the template does not write {field!r} of the last message as it is; "
            "render without it and append the text"
        )
    kept = text[:place]
    # The template strips the message if it stripped the marker's own space.
    return kept if text.startswith(marker, place) else kept.rstrip()
