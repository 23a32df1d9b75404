"""How many tokens a request took."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request

from seed_oss.engine.messages import Ended
from seed_oss.engine.turn_memory import TurnUse


@dataclass
class Usage:
    """Tokens of a request, prompts and choices together.

    Attributes:
        completion_tokens: of the answers.
        reasoning_tokens: of these, thinking.
    """

    completion_tokens: int = 0
    reasoning_tokens: int = 0
    _prompts: dict[int, tuple[int, int]] = field(default_factory=dict[int, tuple[int, int]])

    def add(self, run: int, ended: Ended, num_tokens: int) -> None:
        """A choice has ended.

        Args:
            run: which prompt it belongs to: one counts once, however many choices it has.
            ended: its last event.
            num_tokens: it had.
        """
        prompt, cached = self._prompts.get(run, (0, 0))
        # Choices find each other's prompt in the cache; what was there before is what the first of them found.
        first = not prompt
        self._prompts[run] = (
            max(prompt, ended.num_prompt_tokens),
            ended.num_cached_tokens if first else min(cached, ended.num_cached_tokens),
        )
        self.completion_tokens += num_tokens
        self.reasoning_tokens += ended.num_reasoning_tokens

    @property
    def prompt_tokens(self) -> int:
        """Of the prompts."""
        return sum(prompt for prompt, _ in self._prompts.values())

    @property
    def cached_tokens(self) -> int:
        """Of these, found in the cache."""
        return sum(cached for _, cached in self._prompts.values())

    def tell(self, request: Request) -> None:
        """Leave the numbers where the log finds them."""
        request.state.usage = {"prompt_tokens": self.prompt_tokens, "completion_tokens": self.completion_tokens}

    def to_openai(self) -> dict[str, Any]:
        """As chat completions and completions have it."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
            "completion_tokens_details": {"reasoning_tokens": self.reasoning_tokens},
        }


def turns_shown(uses: Sequence[TurnUse]) -> dict[str, Any]:
    """What became of the answers in the history, as a field of the usage; nothing where there are none."""
    turns = [{"message": use.message_index, "missed": use.missed} for use in uses]
    return {"turns": turns} if turns else {}
