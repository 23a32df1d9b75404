"""Stop strings, matched exactly in the text, wherever the borders of tokens fall.

All strings are searched at once by an automaton (A. Aho, M. Corasick, "Efficient string matching", 1975), one step
per character. Its state is an integer: the node for the longest end of the text that starts some stop string.
"""

from collections import deque
from collections.abc import Sequence

from seed_oss.errors import InputError
from seed_oss.generation.text import Decodes, TextDecoder, text_decoder


class StopMatcher:
    """Finds the first end of any of several strings.

    Args:
        strings: what to look for; none may be empty.

    Raises:
        InputError: no string, an empty one, or something else than text.
    """

    start = 0
    max_chars = 65_536  # of all strings together

    def __init__(self, strings: Sequence[str]) -> None:
        self.strings = tuple(strings)
        if not self.strings or not all(isinstance(string, str) and string for string in self.strings):
            raise InputError(f"stop_strings is {list(strings)!r}; it must be a string or a list of non-empty strings")
        num_chars = sum(map(len, self.strings))
        if num_chars > self.max_chars:
            raise InputError(f"stop_strings has {num_chars} characters; the limit is {self.max_chars}")
        self._children: list[dict[str, int]] = [{}]
        self._depth = [0]
        self._ends = [False]
        for string in self.strings:
            self._add(string)
        self._fallback = [0] * len(self._children)
        self._link()

    @property
    def max_len(self) -> int:
        """Characters of the longest string."""
        return max(map(len, self.strings))

    def num_pending(self, state: int) -> int:
        """How many characters at the end of the text may be the start of a stop string."""
        return self._depth[state]

    def search(self, state: int, text: str) -> tuple[int, int | None]:
        """Read on.

        Args:
            state: what the last call returned, or `start`.
            text: what follows.

        Returns:
            The new state, and how many characters of `text` there are up to the end of the first match, or None.
            After a match the rest of `text` has not been read.
        """
        for position, char in enumerate(text):
            state = self._step(state, char)
            if self._ends[state]:
                return state, position + 1
        return state, None

    def _step(self, state: int, char: str) -> int:
        while state and char not in self._children[state]:
            state = self._fallback[state]
        return self._children[state].get(char, 0)

    def _add(self, string: str) -> None:
        node = 0
        for char in string:
            if char not in self._children[node]:
                self._children[node][char] = len(self._children)
                self._children.append({})
                self._depth.append(self._depth[node] + 1)
                self._ends.append(False)
            node = self._children[node][char]
        self._ends[node] = True

    def _link(self) -> None:
        """Point each node to the longest proper end of its text that is a node too, shorter texts first."""
        queue = deque(self._children[0].values())
        while queue:
            node = queue.popleft()
            for char, child in self._children[node].items():
                self._fallback[child] = self._step(self._fallback[node], char)
                self._ends[child] = self._ends[child] or self._ends[self._fallback[child]]
                queue.append(child)


class StopStringTracker:
    """Follows the text of one row.

    Args:
        matcher: the strings.
        tokenizer: gives the text; special tokens count as text.
        prompt_ids: end of the prompt: a match may begin, but not end, in it.
    """

    def __init__(self, matcher: StopMatcher, tokenizer: Decodes, prompt_ids: Sequence[int]) -> None:
        self._matcher = matcher
        self._decoder: TextDecoder = text_decoder(tokenizer, skip_special_tokens=False)
        self._state = matcher.start
        tail = self._decoder.feed(prompt_ids[-num_tail_tokens(matcher) :]) if prompt_ids else ""
        self._skip(tail)

    def feed(self, token_id: int, *, starts: bool = False) -> bool:
        """Whether a stop string ends in the text of this token.

        Args:
            token_id: the token.
            starts: only blanks were before it: none of them counts, nor what begins in them or in the prompt.
        """
        piece = self._decoder.feed([token_id])
        if starts:
            self._state, piece = self._matcher.start, piece.lstrip()
        self._state, end = self._matcher.search(self._state, piece)
        return end is not None

    def skip(self, token_id: int) -> bool:
        """Take a token in whose text no stop string counts, nor one that begins in it; always False."""
        self._decoder.feed([token_id])
        self._state = self._matcher.start
        return False

    def _skip(self, text: str) -> None:
        end: int | None = 0
        while end is not None:
            self._state, end = self._matcher.search(self._state, text)
            text = text[end:] if end is not None else ""


def num_tail_tokens(matcher: StopMatcher) -> int:
    """How many tokens surely hold the longest string: a character has up to four bytes, a token at least one."""
    return 4 * matcher.max_len + 4
