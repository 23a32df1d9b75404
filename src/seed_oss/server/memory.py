"""What was generated in conversations, so that their next prompts are what was really said.

For the threads of the pool. See `seed_oss.engine.turn_memory` for what counts as the same answer.
"""

import logging
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from seed_oss.chat.control_tokens import EOS, Piece
from seed_oss.chat.stream_parser import parse
from seed_oss.config.generation import GenerationConfig
from seed_oss.engine.turn_memory import RememberedPrompt, Render, TurnMemory
from seed_oss.server.texts import Texts

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
        texts: of the model.
        generation: for the ends of answers, or None.
        max_tokens: of prompts and answers together; 0 remembers nothing.
    """

    def __init__(self, texts: Texts, generation: GenerationConfig | None, max_tokens: int) -> None:
        self._texts, self._max_tokens = texts, max_tokens
        self._memory = TurnMemory(max_tokens, _end_ids(texts, generation))
        self._pending: dict[str, deque[WrittenAnswer]] = {}  # not read yet, or being read
        self._lock, self._reads_pending = threading.Lock(), threading.Lock()

    def prompt(
        self, namespace: str, messages: Sequence[Mapping[str, Any]], render: Render, *, reuse_reasoning: bool
    ) -> RememberedPrompt:
        """A conversation's prompt, generated tokens standing for the answers that are known.

        Args:
            namespace: whose conversation it is.
            messages: the conversation.
            render: its template.
            reuse_reasoning: also where the client left out the thinking.

        Raises:
            SeedOssError: the conversation cannot be rendered.
        """
        if not any(message.get("role") == "assistant" for message in messages):
            return RememberedPrompt(tuple(render(messages, True)))
        self.read_pending(namespace)
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
        detokenizer = self._texts.detokenizer()
        pieces = [*detokenizer.put_pieces(list(answer.token_ids)), *detokenizer.finish_pieces()]
        message = parse(pieces, tools=answer.tools, prompt=answer.open_turn)
        ids = (*answer.suffix_ids, *answer.token_ids)
        self._memory.remember(namespace, answer.prompt_ids, ids, message, is_cut=answer.is_cut)


def _end_ids(texts: Texts, generation: GenerationConfig | None) -> frozenset[int]:
    """Tokens that end an answer."""
    tokenizer = texts.tokenizer
    eos: int | list[int] | None = None if generation is None else generation.eos_token_id
    own = [tokenizer.eos_token_id, tokenizer.get_added_vocab().get(EOS.text)]
    named = eos if isinstance(eos, list) else [eos]
    return frozenset(token_id for token_id in (*own, *named) if token_id is not None)
