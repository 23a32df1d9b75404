"""Which regular expressions of a tokenizer.json are matched in time linear in the text.

The tokenizers package matches by trying and going back; its limit on that counts anew at every match, so a pattern of a
few letters can take hours. A pattern is read here into alternatives of repeated items, and passes if nothing in it can
be tried in many ways before something that may still fail:

    [^\\r\\n\\p{L}]?\\p{L}+ | \\s*[\\r\\n]+ | \\s+(?!\\S) | \\s+
                             ^^^ may run over all spaces and fail; the next alternative takes the same run, so no
                                 character is run over often

Patterns of known tokenizers that this rule is too strict for stand in a list.
"""

import re
from dataclasses import dataclass, replace

MAX_COUNT = 1_024  # times that something may be asked for by number
MAX_WAYS = 64  # ways to match an alternative that may still fail
MAX_DEPTH = 16

# Checked by hand: linear, or quadratic only in runs of spaces or digits.
KNOWN_PATTERNS = frozenset(
    {
        r"\s+$",
        r" +▁",
        r"^▁+$",
        r"<sentinel:[0-9]+>",
        r"(?=(\d{3})+(?!\d))",
        r"\d{1,3}(?=(?:\d{3})*\b)",
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
        r"|\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)"
        r"|\s{1,2}(?!\S)|\s{1}",
    }
)
_KNOWN_ALTERNATIVES = frozenset({r"[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+"})
# Going back once is enough for it, so it fails on a single space only.
_SPACES_BEFORE_SPACE = r"\s+(?!\S)"

_ESCAPE = re.compile(r"\\(?:[pP]\{\^?[\w ]{1,40}\}|x\{[0-9a-fA-F]{1,8}\}|x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|(?s:.))")
_CHARACTER_ESCAPES = frozenset("pPxudDwWsSnrtfvaehH")
_ASSERTION_ESCAPES = frozenset("bBAzZG")
_REPEAT = re.compile(r"[*+?]|\{(\d{1,9})?(?:(,)(\d{1,9})?)?\}")
_GROUP = re.compile(r"\((?:\?(?:(:|[im-]{1,4}:)|(=|!|<=|<!)|(>)))?")


class _SlowPatternError(Exception):
    """The pattern may be slow, or uses something that is not read here."""


@dataclass(frozen=True, slots=True)
class _Item:
    """A character, an assertion (matches no text) or a group, with how often it may come; None is without end."""

    text: str
    least: int = 1
    most: int | None = 1
    alternatives: tuple["_Alternative", ...] = ()
    is_assertion: bool = False
    is_ambiguous: bool = False

    @property
    def is_fixed(self) -> bool:
        """Whether there is one way to match it: no choice in it, and a number of times given."""
        return self.least == self.most and not self.is_ambiguous and _one_way(self.alternatives)


@dataclass(frozen=True, slots=True)
class _Alternative:
    text: str
    items: tuple[_Item, ...]


def slow_pattern_reason(pattern: str) -> str | None:
    """Why a pattern may take more than linear time, as the end of a sentence; None for one that does not.

    Args:
        pattern: A regular expression as the tokenizers package takes it (Oniguruma's Ruby syntax).
    """
    if _written_out(pattern) in KNOWN_PATTERNS:
        return None
    try:
        alternatives = _Reader(pattern).whole()
        while len(alternatives) == 1 and (inner := _only_group(alternatives[0])):
            alternatives = inner
        for index, alternative in enumerate(alternatives):
            _check_alternative(alternative, alternatives[index + 1 :])
    except _SlowPatternError as error:
        return str(error)
    return None


def _written_out(pattern: str) -> str:
    return pattern.replace("\r", r"\r").replace("\n", r"\n")


def _only_group(alternative: _Alternative) -> tuple[_Alternative, ...]:
    items = alternative.items
    plain = len(items) == 1 and items[0].least == items[0].most == 1 and not items[0].is_assertion
    return items[0].alternatives if plain else ()


def _check_alternative(alternative: _Alternative, rest: tuple[_Alternative, ...]) -> None:
    """An alternative at the top: one unbounded run may fail if the next alternatives begin with the same run."""
    if _written_out(alternative.text) in _KNOWN_ALTERNATIVES or alternative.text == _SPACES_BEFORE_SPACE:
        return
    ways, num_runs = _ways(alternative.items, may_fail=False)
    if ways > MAX_WAYS:
        raise _SlowPatternError(f"has an alternative that may be tried in more than {MAX_WAYS} ways before it fails")
    if num_runs and (num_runs > 1 or not rest or _start(rest[0]) != _start(alternative)):
        raise _SlowPatternError("repeats something without end before something that may fail")


def _start(alternative: _Alternative) -> tuple[str, ...] | None:
    """What an alternative runs over first: optional characters before the run, and the run."""
    texts: list[str] = []
    for item in alternative.items:
        texts.append(item.text)
        if item.most is None:
            return tuple(texts)
        if item.least:
            return None
    return None


def _ways(items: tuple[_Item, ...], *, may_fail: bool) -> tuple[int, int]:
    """How many ways there are to match items that something may still fail after, and how many unbounded runs."""
    ways, num_runs = 1, 0
    for item in reversed(items):
        inner_ways, inner_runs = _ways_of_item(item, may_fail)
        ways = min(ways * inner_ways, MAX_WAYS + 1)
        num_runs += inner_runs
        may_fail = may_fail or item.least > 0 or item.is_assertion
    return ways, num_runs


def _ways_of_item(item: _Item, may_fail: bool) -> tuple[int, int]:
    if item.is_assertion:
        inner = [_ways(one.items, may_fail=True) for one in item.alternatives]
        if any(run for _, run in inner) or any(piece.most is None for one in item.alternatives for piece in one.items):
            raise _SlowPatternError("looks ahead or back without end")
        return sum(count for count, _ in inner) or 1, 0
    if item.most != 1 and not _one_way(item.alternatives):
        raise _SlowPatternError("repeats something that can itself be matched in several ways")
    if item.is_ambiguous and may_fail:
        raise _SlowPatternError("repeats a repetition")
    inner = [_ways(one.items, may_fail=may_fail) for one in item.alternatives]
    if any(run for _, run in inner):
        raise _SlowPatternError("repeats something without end, inside a group, before something that may fail")
    if not may_fail:
        return max((count for count, _ in inner), default=1), 0
    if item.most is None:
        return 1, 1
    return max(sum(count for count, _ in inner), 1) * (item.most - item.least + 1), 0


def _one_way(alternatives: tuple[_Alternative, ...]) -> bool:
    """Whether no text fits them in two ways: at most one alternative without a choice, or letters that all differ."""
    if len(alternatives) <= 1:
        return all(item.is_fixed for one in alternatives for item in one.items)
    letters = {one.text.lower() for one in alternatives}
    return len(letters) == len(alternatives) and all(
        len(one) == 1 and one.isascii() and one.isalnum() for one in letters
    )


class _Reader:
    """Reads a pattern from left to right."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._at = 0
        self._depth = 0

    def whole(self) -> tuple[_Alternative, ...]:
        alternatives = self._alternatives()
        if self._at < len(self._pattern):
            raise _SlowPatternError("has a ) too many")
        return alternatives

    def _alternatives(self) -> tuple[_Alternative, ...]:
        found: list[_Alternative] = []
        items: list[_Item] = []
        start = self._at
        while self._at < len(self._pattern) and self._pattern[self._at] != ")":
            if self._pattern[self._at] == "|":
                found.append(_Alternative(self._pattern[start : self._at], tuple(items)))
                self._at += 1
                start, items = self._at, []
            else:
                items.append(self._item())
        return (*found, _Alternative(self._pattern[start : self._at], tuple(items)))

    def _item(self) -> _Item:
        letter = self._pattern[self._at]
        if letter == "(":
            item = self._group()
        elif letter == "[":
            item = _Item(self._class())
        elif letter == "\\":
            item = self._escape()
        elif letter in "*+?":
            raise _SlowPatternError(f"has a {letter} that repeats nothing")
        else:
            self._at += 1
            item = _Item(letter, is_assertion=letter in "^$")
        if match := self._next_repeat():
            item = self._repeated(item, match)
            if match[0] in ("*", "+", "?") and self._pattern.startswith(("?", "+"), self._at):
                is_lazy = self._pattern[self._at] == "?"  # a + there means that it never goes back
                item = replace(item, text=item.text + "?") if is_lazy else item
                self._at += 1
        while match := self._next_repeat():
            self._at = match.end()
            item = replace(item, most=None, is_ambiguous=True)
        return item

    def _next_repeat(self) -> re.Match[str] | None:
        match = _REPEAT.match(self._pattern, self._at)
        return None if match is None or match[0] in ("{}", "{,}") else match

    def _repeated(self, item: _Item, match: re.Match[str]) -> _Item:
        if item.is_assertion:
            raise _SlowPatternError("repeats an assertion")
        self._at = match.end()
        least, most = _counts(match)
        if max(least, most or 0) * _longest(item) > MAX_COUNT:
            raise _SlowPatternError(f"asks for something more than {MAX_COUNT} times")
        return _Item(item.text, least, most, item.alternatives)

    def _group(self) -> _Item:
        match = _GROUP.match(self._pattern, self._at)
        if match is None or self._pattern.startswith("?", match.end()):
            raise _SlowPatternError("has a kind of group that is not known here")
        start, self._at = self._at, match.end()
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _SlowPatternError(f"is nested more than {MAX_DEPTH} deep")
        alternatives = self._alternatives()
        self._depth -= 1
        if not self._pattern.startswith(")", self._at):
            raise _SlowPatternError("lacks a )")
        self._at += 1
        return _Item(self._pattern[start : self._at], alternatives=alternatives, is_assertion=bool(match[2]))

    def _class(self) -> str:
        """A character class; classes nest, and `]` ends one wherever it stands unescaped."""
        start, depth = self._at, 0
        while self._at < len(self._pattern):
            letter = self._pattern[self._at]
            if letter == "\\":
                self._escape()
                continue
            self._at += 1
            if letter == "[":
                depth += 1
                if self._pattern.startswith(("]", "^]"), self._at):
                    raise _SlowPatternError("has a class that starts with ]")
            elif letter == "]":
                depth -= 1
                if not depth:
                    return self._pattern[start : self._at]
        raise _SlowPatternError("lacks a ]")

    def _escape(self) -> _Item:
        match = _ESCAPE.match(self._pattern, self._at)
        if match is None:
            raise _SlowPatternError("has an escape that is not known here")
        self._at = match.end()
        letter = match[0][1]
        if letter in _ASSERTION_ESCAPES:
            return _Item(match[0], is_assertion=True)
        if letter.isalnum() and (letter not in _CHARACTER_ESCAPES or (letter in "pPxu" and len(match[0]) < 3)):
            raise _SlowPatternError(f"has {match[0]}, which is not known here")
        return _Item(match[0])


def _counts(match: re.Match[str]) -> tuple[int, int | None]:
    if match[0] in ("*", "+", "?"):
        return {"*": (0, None), "+": (1, None), "?": (0, 1)}[match[0]]
    least = int(match[1] or 0)
    if not match[2]:
        return least, least
    return least, int(match[3]) if match[3] else None


def _longest(item: _Item) -> int:
    """The most characters that fixed items in a group ask for."""
    return max(
        (sum((piece.most or 1) * _longest(piece) for piece in one.items) for one in item.alternatives), default=1
    )
