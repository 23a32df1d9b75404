"""From a conversation to segments of a prompt, through the Seed renderer or through a foreign template."""

import bisect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from seed_oss.chat.budget import ThinkingBudget
from seed_oss.chat.control_tokens import ControlToken
from seed_oss.chat.control_vocabulary import ControlVocabulary, Segment
from seed_oss.chat.normalize import normalize_chat, template_budget
from seed_oss.chat.sanitize import Breaker, private_text
from seed_oss.chat.seed_template import Variant, render_pieces
from seed_oss.chat.templating import client_values, render_values
from seed_oss.errors import TemplateError

_GENERATION_BLOCK = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")
Spans = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class PromptRequest:
    """What is the same for every conversation of a call.

    Args:
        tools: Tools as JSON schemas.
        documents: Documents, for foreign templates.
        thinking_budget: As in `render`.
        use_json_tooldef: As in `render`.
        add_generation_prompt: Open the assistant's turn at the end.
        continue_final_message: End where the last message ends; a string names the field.
        variables: Further variables of a foreign template.
    """

    tools: Sequence[Any] | None
    documents: Sequence[Any] | None
    thinking_budget: Any
    use_json_tooldef: bool
    add_generation_prompt: bool
    continue_final_message: bool | str
    variables: Mapping[str, Any]

    @property
    def foreign_variables(self) -> dict[str, Any]:
        """The variables of a foreign template; what was not asked for stays undefined, as templates expect."""
        named: dict[str, Any] = {"use_json_tooldef": True} if self.use_json_tooldef else {}
        if getattr(self.thinking_budget, "template_value", self.thinking_budget) is not None:
            named["thinking_budget"] = template_budget(self.thinking_budget)
        return {**self.variables, **named}

    @property
    def seed_budget(self) -> Any:
        """The budget for a Seed template: the one given, or else one in another spelling among the variables.

        Raises:
            InputError: A spelling with a value that is not allowed, or one that says something else than another.
        """
        spelled = ThinkingBudget.from_request(self.variables)
        if spelled is None:
            return self.thinking_budget
        given = getattr(self.thinking_budget, "template_value", self.thinking_budget)
        if given is None:
            return spelled.template_value
        ThinkingBudget.from_request({**self.variables, "thinking_budget": given})  # raises where they differ
        return self.thinking_budget


@dataclass(frozen=True, slots=True)
class Prompt:
    """A rendered conversation.

    Args:
        text: The prompt as one string.
        segments: Its text and control tokens; None where encoding the string as it is gives the same ids.
        assistant_spans: Which characters the assistant wrote; None where it was not asked for.
    """

    text: str
    segments: tuple[Segment, ...] | None = None
    assistant_spans: Spans | None = None


def seed_prompt(messages: Sequence[Any], request: PromptRequest, variant: Variant) -> Prompt:
    """Render one conversation as a released Seed template does.

    Raises:
        TemplateError: The messages cannot be shown to the model.
    """
    chat = normalize_chat(messages, request.tools, request.seed_budget, use_json_tooldef=request.use_json_tooldef)
    goes_on = request.continue_final_message
    rendered = render_pieces(
        chat,
        add_generation_prompt=request.add_generation_prompt,
        continue_field=goes_on if isinstance(goes_on, str) and goes_on else "content" if goes_on else None,
        variant=variant,
    )
    segments = tuple(
        Segment(piece, len(piece.text if isinstance(piece, ControlToken) else piece)) for piece in rendered.pieces
    )
    return Prompt(rendered.text, segments, rendered.assistant_spans)


def foreign_prompt(
    template: str,
    messages: Sequence[Any],
    request: PromptRequest,
    *,
    special_tokens: Mapping[str, str],
    vocabulary: ControlVocabulary | None,
    with_spans: bool,
) -> Prompt:
    """Render one conversation through a template of somebody else's, in the sandbox.

    Args:
        template: The template's text.
        messages: The conversation.
        request: The rest of the call.
        special_tokens: The tokenizer's special tokens by name.
        vocabulary: Whose control tokens clients must not spell; None where they may.
        with_spans: Whether to find what the assistant wrote, by the template's generation blocks.

    Raises:
        TemplateError: The template cannot render the messages, undoes the breaking of markers, or has no generation
            blocks although they are needed.
    """
    if with_spans and not _GENERATION_BLOCK.search(template):
        raise TemplateError(
            "return_assistant_tokens_mask=True needs a template that marks what the assistant wrote with "
            "{% generation %} ... {% endgeneration %}, and this one does not; pass one as chat_template="
        )
    values = client_values(
        template, messages, tools=request.tools, documents=request.documents, variables=request.foreign_variables
    )

    def render(given: Mapping[str, Any], marks: tuple[str, str] | None = None) -> str:
        return render_values(
            template,
            given,
            special_tokens=special_tokens,
            add_generation_prompt=request.add_generation_prompt,
            continue_final_message=request.continue_final_message,
            marks=marks,
        )

    marks = (private_text(), private_text()) if with_spans else None
    breaker = None if vocabulary is None else Breaker(vocabulary)
    given, inert = (values, values) if breaker is None else _disarmed(breaker, values)
    text, spans = _without_marks(render(given, marks), marks)
    if breaker is None or not breaker.num_broken:
        return Prompt(text, None, spans)
    segments = breaker.cut(text)
    _check_unchanged(segments, breaker.cut(render(inert)))
    mended = None if spans is None else _moved(spans, text, breaker.nonce)
    return Prompt(breaker.mend(text), tuple(segments), mended)


def _disarmed(breaker: Breaker, values: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The values with their markers broken, and with letters in place of markers."""
    try:
        broken = breaker.broken(values)
        return broken, breaker.inert(values) if breaker.num_broken else values
    except RecursionError:
        raise TemplateError("the messages are nested too deeply") from None


def _check_unchanged(segments: Sequence[Segment], inert: Sequence[Segment]) -> None:
    """Compare what broken markers became with what plain letters in their place became."""
    controls, expected = ([s.piece for s in each if isinstance(s.piece, ControlToken)] for each in (segments, inert))
    lengths = [sum(segment.num_chars for segment in each) for each in (segments, inert)]
    if controls != expected or lengths[0] != lengths[1]:
        raise TemplateError(
            "the chat template changes text in a way that control tokens written in messages cannot be kept apart from "
            "its own; leave them out, or pass sanitize_control_tokens=False to let them count"
        )


def _without_marks(text: str, marks: tuple[str, str] | None) -> tuple[str, Spans | None]:
    """The text without the marks of generation blocks, and where these began and ended in it."""
    if marks is None:
        return text, None
    parts: list[str] = []
    spans: list[tuple[int, int]] = []
    place = depth = start = 0
    for part in re.split(f"({marks[0]}|{marks[1]})", text):
        if part == marks[0]:
            start = start if depth else place
            depth += 1
        elif part == marks[1]:
            depth -= 1
            if depth == 0:
                spans.append((start, place))
        else:
            parts.append(part)
            place += len(part)
    if depth > 0:  # cut off where the last message is continued
        spans.append((start, place))
    if depth < 0:
        raise TemplateError("the chat template changes what its generation blocks render; it cannot give a mask")
    return "".join(parts), tuple(spans)


def _moved(spans: Spans, text: str, nonce: str) -> Spans:
    """Spans of a text as spans of the same text without the nonces."""
    places = [match.start() for match in re.finditer(nonce, text)]

    def moved(place: int) -> int:
        return place - len(nonce) * bisect.bisect_left(places, place)

    return tuple((moved(start), moved(end)) for start, end in spans)


def in_spans(starts: Sequence[int], spans: Spans) -> list[int]:
    """1 for each place inside one of the spans, 0 for the others; both in order."""
    rest = iter(spans)
    start, end = next(rest, (0, 0))
    mask: list[int] = []
    for place in starts:
        while place >= end and (following := next(rest, None)) is not None:
            start, end = following
        mask.append(int(start <= place < end))
    return mask
