"""Guesses copied from what is there already: the text that followed the newest tokens when they occurred before.

Source: A. Saxena, "Prompt lookup decoding", 2023. Of several occurrences the last one is taken.
"""

from collections.abc import Iterable, Sequence

from seed_oss.generation.columns import Columns
from seed_oss.generation.drafting import Drafter

_SHORTEST = 3  # after a miss; one row more or less in a forward hardly counts


class NgramIndex:
    """Where the newest tokens of a growing row occurred before. Each token is looked at once.

    Args:
        max_ngram_size: longest run of tokens that is looked for; shorter ones if it does not occur.
    """

    def __init__(self, max_ngram_size: int) -> None:
        self._sizes = range(1, max_ngram_size + 1)
        self._ids: list[int] = []
        self._following: dict[tuple[int, ...], int] = {}  # n-gram: index of the token behind its last occurrence

    def extend(self, token_ids: Iterable[int]) -> None:
        """Add tokens at the end."""
        for token_id in token_ids:
            end = len(self._ids)
            for size in self._sizes[:end]:
                self._following[tuple(self._ids[end - size :])] = end
            self._ids.append(token_id)

    def propose(self, limit: int) -> list[int]:
        """What followed the newest tokens before, `limit` tokens at most; it may run on into itself."""
        for size in reversed(self._sizes):
            start = self._following.get(tuple(self._ids[-size:])) if size <= len(self._ids) else None
            if start is not None:
                known = self._ids[start : start + limit]
                return [known[index % len(known)] for index in range(limit)]
        return []


class PromptLookup(Drafter):
    """Looks up each row in itself.

    Args:
        prompts: ids of each row's prompt without padding.
        num_prompt_columns: length of the padded prompts.
        num_tokens: most tokens to guess; fewer for a while after a wrong guess.
        max_ngram_size: longest run of tokens that is looked for.
    """

    def __init__(
        self, prompts: Sequence[Sequence[int]], num_prompt_columns: int, num_tokens: int, max_ngram_size: int
    ) -> None:
        self._rows = [NgramIndex(max_ngram_size) for _ in prompts]
        for index, prompt in zip(self._rows, prompts, strict=True):
            index.extend(prompt)
        self._num_seen = num_prompt_columns
        self._most = self._num_tokens = num_tokens

    @property
    def num_tokens(self) -> int:
        """See Drafter.num_tokens."""
        return self._num_tokens

    def propose(self, ids: Columns, limit: int, done: Sequence[bool]) -> list[list[int]]:
        """See Drafter.propose."""
        new = ids.view()[:, self._num_seen :].tolist()
        self._num_seen = len(ids)
        for row, tokens, ended in zip(self._rows, new, done, strict=True):
            if not ended:
                row.extend(tokens)
        return [[] if ended else row.propose(limit) for row, ended in zip(self._rows, done, strict=True)]

    def judge(self, num_right: int, num_proposed: int) -> None:
        """See Drafter.judge."""
        wanted = 2 * self._num_tokens if num_right == num_proposed else num_right + 1
        self._num_tokens = min(max(wanted, _SHORTEST), self._most)
