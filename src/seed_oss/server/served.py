"""What is served, and how: plain values that the endpoints are made with."""

from dataclasses import dataclass

from seed_oss.chat.budget import ThinkingBudget
from seed_oss.chat.tokenizer import SeedOssTokenizer
from seed_oss.config.generation import GenerationConfig
from seed_oss.engine.conversation_memory import MAX_REMEMBERED_TOKENS
from seed_oss.errors import InputError
from seed_oss.server.request_limits import RequestLimits

MAX_COUNTED_CHARS = 2**20
MAX_BODY_BYTES = 8 * 2**20
MAX_BODY_VALUES = 1_000_000


@dataclass(frozen=True)
class ServedModel:
    """A model, from outside.

    Attributes:
        names: what requests may call it; the first is the one that is shown.
        tokenizer: its tokenizer.
        context_length: most tokens of a prompt and its answer.
        generation: of its generation_config.json, or None.
        labels: names of the classes of a classifier, in order.
        created: when it was made, in seconds since 1970.
    """

    names: tuple[str, ...]
    tokenizer: SeedOssTokenizer
    context_length: int
    generation: GenerationConfig | None = None
    labels: tuple[str, ...] = ()
    created: int = 0

    def __post_init__(self) -> None:
        if not self.names:
            raise InputError("a served model has no name; give at least one")

    @property
    def name(self) -> str:
        """The name that is shown."""
        return self.names[0]


@dataclass(frozen=True)
class ApiSettings:
    """How the endpoints behave.

    Attributes:
        keep_alive_seconds: a stream in which nothing comes for so long gets a comment.
        prepare_seconds: most seconds that a prompt may take to become tokens, waiting for a thread included.
        num_threads: threads that make tokens of prompts.
        max_preparing: requests that may wait for these threads.
        retry_seconds: what a client that has to wait is told.
        thinking_budget: where a request names none.
        loop_guard: end answers that repeat themselves, where a request does not say.
        max_stored_responses: answers of /v1/responses that are kept in memory.
        max_stored_bytes: their size together.
        cache_turns: generated tokens stand for answers in a history, where a request does not say.
        max_remembered_tokens: of the prompts and answers that later prompts of their conversations are matched with;
            0 remembers none.
        limits: bounds of what one request may ask for.
    """

    keep_alive_seconds: float = 15.0
    prepare_seconds: float = 30.0
    num_threads: int = 2
    max_preparing: int = 64
    retry_seconds: int = 1
    thinking_budget: ThinkingBudget = ThinkingBudget()  # noqa: RUF009 - frozen
    loop_guard: bool = False
    max_stored_responses: int = 1024
    max_stored_bytes: int = 64 * 2**20
    cache_turns: bool = True
    max_remembered_tokens: int = MAX_REMEMBERED_TOKENS
    limits: RequestLimits = RequestLimits()  # noqa: RUF009 - frozen
