"""What `LLM` returns."""

from dataclasses import dataclass

from seed_oss.chat.assistant_message import AssistantMessage
from seed_oss.engine.messages import LogProbs
from seed_oss.engine.turn_memory import TurnUse


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer.

    Attributes:
        index: 0 to n - 1.
        text: without the end of sequence and from a stop string on.
        token_ids: all tokens that came.
        finish_reason: "eos", "stop_token", "stop_string", "length", "loop" or "grammar_error".
        stop: the text or token of the request that ended it, or None.
        logprobs: of the tokens, if asked for.
        num_reasoning_tokens: tokens of thinking (chats).
    """

    index: int
    text: str
    token_ids: tuple[int, ...]
    finish_reason: str
    stop: str | int | None = None
    logprobs: LogProbs | None = None
    num_reasoning_tokens: int = 0


@dataclass(frozen=True, slots=True)
class RequestOutput:
    """The answers to one prompt.

    Attributes:
        prompt: its text; None where ids were given.
        prompt_token_ids: its tokens.
        outputs: one for each answer that was asked for.
        prompt_logprobs: of the prompt's tokens, if asked for.
        num_cached_tokens: tokens of the prompt that were found in the cache, of the first answer.
    """

    prompt: str | None
    prompt_token_ids: tuple[int, ...]
    outputs: tuple[Completion, ...]
    prompt_logprobs: LogProbs | None = None
    num_cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class ChatOutput:
    """The answers to one conversation.

    Attributes:
        messages: one for each answer that was asked for: reasoning, content and tool calls.
        request: the same as text and tokens.
        turns: of each answer in the history, whether its tokens stand in the prompt as they were generated.
    """

    messages: tuple[AssistantMessage, ...]
    request: RequestOutput
    turns: tuple[TurnUse, ...] = ()


@dataclass(frozen=True, slots=True)
class Delta:
    """More of one answer.

    Attributes:
        index: which answer.
        text: what is certain of its text beyond what has come.
        token_ids: new tokens.
        logprobs: of these, if asked for.
        finish_reason: why it has ended, with the last one.
    """

    index: int
    text: str
    token_ids: tuple[int, ...]
    logprobs: LogProbs | None = None
    finish_reason: str | None = None


@dataclass(frozen=True, slots=True)
class Vector:
    """What a prompt came to as numbers.

    Attributes:
        values: the embedding, or the scores of the labels.
        prompt_token_ids: tokens of the prompt.
    """

    values: tuple[float, ...]
    prompt_token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TokenVectors:
    """Numbers for each token of a prompt.

    Attributes:
        values: `[num_tokens][labels]`; start and end scores where answers are looked for.
        prompt_token_ids: the tokens.
    """

    values: tuple[tuple[float, ...], ...]
    prompt_token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Score:
    """How probable a text is.

    Attributes:
        logprob: of all tokens behind the first together.
        logprobs: of each.
        prompt_token_ids: the tokens.
    """

    logprob: float
    logprobs: LogProbs
    prompt_token_ids: tuple[int, ...]
