"""POST /tokenize and /detokenize."""

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import FailFast, Field
from starlette.requests import Request
from starlette.responses import Response

from seed_oss.chat.control_tokens import join
from seed_oss.chat.normalize import normalize_chat
from seed_oss.server.api import Api
from seed_oss.server.bodies import Ignored
from seed_oss.server.chat_request import Message, ThinkingFields
from seed_oss.server.errors import ApiError, refusing
from seed_oss.server.inner_fields import check_messages, check_tools
from seed_oss.server.limits import MAX_MESSAGES
from seed_oss.server.prompts import read_prompts
from seed_oss.server.served import MAX_COUNTED_CHARS
from seed_oss.server.streaming import JSONAnswer, unless_gone
from seed_oss.server.texts import Texts
from seed_oss.server.turn import Conversation, prompt_ids

_CHARS_PER_TOKEN = 12


class TokenizeRequest(ThinkingFields):
    """A body of /tokenize: a text, or a conversation with what shapes its prompt."""

    model: Annotated[str | None, Field(min_length=1, max_length=256)] = None
    prompt: str | None = None
    messages: Annotated[list[Message] | None, Field(min_length=1, max_length=MAX_MESSAGES), FailFast()] = None
    tools: Annotated[list[Any] | None, Field(max_length=128)] = None
    add_generation_prompt: bool | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None


class DetokenizeRequest(Ignored):
    """A body of /detokenize."""

    model: Annotated[str | None, Field(min_length=1, max_length=256)] = None
    tokens: Any


async def tokenize(api: Api, request: Request) -> Response:
    """The tokens of a text or a conversation."""
    asked, body = await api.read(request, TokenizeRequest)
    api.adapter_of(asked.model)
    if (asked.prompt is None) == (asked.messages is None):
        raise ApiError("invalid", "give either prompt or messages", param="prompt")
    num = api.check_chars(asked.prompt, "prompt", most=MAX_COUNTED_CHARS)
    wanted = None
    if asked.messages is not None:
        wanted, num = await unless_gone(request, api.made(request, lambda: _conversation(api, asked, body)))
    ids = await unless_gone(request, api.work(lambda: _ids(api.texts, asked, wanted), num))

    def answer() -> Response:
        strings = {"token_strs": [api.texts.text(token_id) for token_id in ids]} if asked.return_token_strs else {}
        return JSONAnswer({"count": len(ids), "max_model_len": api.max_len, "tokens": list(ids), **strings})

    return await unless_gone(request, api.written(answer, _CHARS_PER_TOKEN * len(ids)))


async def detokenize(api: Api, request: Request) -> Response:
    """The text of tokens."""
    asked, _ = await api.read(request, DetokenizeRequest)
    api.adapter_of(asked.model)
    if asked.tokens == []:
        return JSONAnswer({"prompt": ""})
    size = api.vocab_size
    given = await api.made(request, lambda: read_prompts(asked.tokens, "tokens", max_prompts=0, vocab_size=size))
    if given[0].text is not None:
        raise ApiError("invalid", "tokens must be a list of token ids", param="tokens")
    text = await unless_gone(request, api.work(lambda: join(api.texts.pieces(given[0].ids))))
    return JSONAnswer({"prompt": text})


def _conversation(api: Api, asked: TokenizeRequest, body: dict[str, Any]) -> tuple[Conversation, int]:
    """The conversation and its characters."""
    messages = [message.for_template() for message in asked.messages or ()]
    check_messages(messages)
    check_tools(asked.tools)
    wanted = Conversation(
        messages=messages,
        tools=asked.tools,
        budget=asked.budget(body, api.settings),
        variables=asked.variables(),
        is_answered=asked.add_generation_prompt is not False,
    )
    return wanted, api.check_chars([messages, asked.tools], "messages", most=MAX_COUNTED_CHARS)


def _ids(texts: Texts, asked: TokenizeRequest, wanted: Conversation | None) -> Sequence[int]:
    with refusing("prompt" if wanted is None else None):
        if wanted is not None:
            normalize_chat(wanted.messages, wanted.tools, strict=True)
            return prompt_ids(texts, wanted)
        return texts.tokenizer(
            asked.prompt or "", add_special_tokens=asked.add_special_tokens is not False, verbose=False
        )["input_ids"]
