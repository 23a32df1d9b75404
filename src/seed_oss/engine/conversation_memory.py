"""What was generated in conversations, so that their next prompts are what was really said. No torch.

See `seed_oss.engine.turn_memory` for what counts as the same answer. Threads may share it.
"""

import logging
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from seed_oss.chat.control_tokens import EOS, Piece
from seed_oss.chat.control_vocabulary import each_text_once
from seed_oss.chat.stream_parser import parse
from seed_oss.chat.tokenizer import SeedOssTokenizer
from seed_oss.config.generation import GenerationConfig
from seed_oss.engine.turn_memory import RememberedPrompt, Render, TurnMemory, not_taken

MAX_REMEMBERED_TOKENS = 2**20
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class WrittenAnswer:
    """An answer as it was generated.

    Attributes:
        prompt_ids: what it came after.
        suffix_ids: what the engine put behind that.
        token_ids: of the answer.
        tools: the tools in the prompt.
        open_turn: the pieces of the prompt's last turn, the suffix included.
        is_remembered: it may be kept.
        is_cut: the limit of tokens ended it.
    """

    prompt_ids: tuple[int, ...]
    suffix_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    tools: Sequence[Mapping[str, Any]] | None
    open_turn: tuple[Piece, ...]
    is_remembered: bool = True
    is_cut: bool = False


class ConversationMemory:
    """Answers by the prompts they came after.

    Args:
        tokenizer: of the model.
        generation: for the ends of answers, or None.
        max_tokens: of prompts and answers together; 0 remembers nothing.
    """

    def __init__(
        self,
        tokenizer: SeedOssTokenizer,
        generation: GenerationConfig | None,
        max_tokens: int = MAX_REMEMBERED_TOKENS,
    ) -> None:
        self._fresh, self._max_tokens = tokenizer.detokenizer(skip_special_tokens=True), max_tokens
        self._memory = TurnMemory(max_tokens, _end_ids(tokenizer, generation))
        self._pending: dict[str, deque[WrittenAnswer]] = {}  # not read yet, or being read
        self._lock, self._reads_pending = threading.Lock(), threading.Lock()

    def prompt(
        self,
        namespace: str,
        messages: Sequence[Mapping[str, Any]],
        render: Render,
        *,
        takes_turns: bool = True,
        reuse_reasoning: bool = False,
    ) -> RememberedPrompt:
        """A conversation's prompt, generated tokens standing for the answers that are known.

        Args:
            namespace: whose conversation it is.
            messages: the conversation.
            render: its template.
            takes_turns: False renders the conversation as it is.
            reuse_reasoning: also where the client left out the thinking.

        Raises:
            SeedOssError: the conversation cannot be rendered.
        """
        if not takes_turns or not any(map(_is_answer, messages)):
            ids = tuple(render(messages, True))
            return RememberedPrompt(ids, not_taken(messages, "off"))
        self.read_pending(namespace)
        with each_text_once():
            return self._memory.prompt(namespace, messages, render, reuse_reasoning=reuse_reasoning)

    def take(self, namespace: str, answer: WrittenAnswer) -> None:
        """Keep an answer, to be read by `read_pending` or the next prompt; takes no time."""
        if self._max_tokens and answer.is_remembered:
            with self._lock:
                self._pending.setdefault(namespace, deque()).append(answer)

    def read_pending(self, namespace: str) -> None:
        """Read the answers of a namespace that were taken; returns when none is left."""
        if namespace not in self._pending:
            return
        with self._reads_pending:
            while (answer := self._first_pending(namespace)) is not None:
                try:
                    self.remember(namespace, answer)
                except Exception as error:  # noqa: BLE001 - it costs the memory of this answer, and no request
                    _LOG.error("an answer could not be remembered: %s", type(error).__name__)
                self._pending[namespace].popleft()

    def _first_pending(self, namespace: str) -> WrittenAnswer | None:
        with self._lock:
            pending = self._pending.get(namespace)
            if not pending:
                self._pending.pop(namespace, None)
                return None
            return pending[0]

    def remember(self, namespace: str, answer: WrittenAnswer) -> None:
        """Keep an answer, read at once."""
        if not self._max_tokens or not answer.is_remembered:
            return
        detokenizer = self._fresh.copy()
        pieces = [*detokenizer.put_pieces(list(answer.token_ids)), *detokenizer.finish_pieces()]
        message = parse(pieces, tools=answer.tools, prompt=answer.open_turn)
        ids = (*answer.suffix_ids, *answer.token_ids)
        self._memory.remember(namespace, answer.prompt_ids, ids, message, is_cut=answer.is_cut)


def owner_of(namespace: str, adapter: str | None) -> str:
    """Under which name answers are kept: what one adapter wrote is in no cache of another's.

    Args:
        namespace: whose conversations they are.
        adapter: that wrote them, or None.
    """
    return namespace if adapter is None else f"{namespace}/{adapter}"


def open_turn(tokenizer: SeedOssTokenizer, prompt_ids: Sequence[int]) -> list[Piece]:
    """The pieces of a prompt's last turn, which say where the answer starts."""
    bos, ids = tokenizer.bos_token_id, list(prompt_ids)
    start = len(ids) - 1 - ids[::-1].index(bos) if bos is not None and bos in ids else 0
    detokenizer = tokenizer.detokenizer()
    return [*detokenizer.put_pieces(ids[start:]), *detokenizer.finish_pieces()]


def _is_answer(message: Any) -> bool:
    """Whatever it is: rendering refuses what is no message."""
    return isinstance(message, Mapping) and cast("Mapping[str, Any]", message).get("role") == "assistant"


def _end_ids(tokenizer: SeedOssTokenizer, generation: GenerationConfig | None) -> frozenset[int]:
    """Tokens that end an answer."""
    eos: int | list[int] | None = None if generation is None else generation.eos_token_id
    own = [tokenizer.eos_token_id, tokenizer.get_added_vocab().get(EOS.text)]
    named = eos if isinstance(eos, list) else [eos]
    return frozenset(token_id for token_id in (*own, *named) if token_id is not None)
