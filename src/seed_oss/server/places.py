"""Places in the engine's queue. A request takes all that it will need at the same time before anything of it runs.

So it is refused as a whole or not at all: what it hands in later finds its place kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from seed_oss.engine.client import RequestEvent
from seed_oss.engine.messages import Computed, Ended, Ready, Submit, Tokens
from seed_oss.server.errors import ApiError


@dataclass(frozen=True, slots=True)
class Need:
    """What is taken of the queue.

    Attributes:
        num_rows: answers that run or wait.
        num_tokens: of prompts that wait.
    """

    num_rows: int = 0
    num_tokens: int = 0

    def plus(self, more: "Need", sign: int = 1) -> "Need":
        """Both together; with -1 this one without the other."""
        return Need(self.num_rows + sign * more.num_rows, self.num_tokens + sign * more.num_tokens)


class Places:
    """Counts what requests have taken.

    Attributes:
        taken: by all together.
    """

    def __init__(self) -> None:
        self.taken = Need()

    def take(self, need: Need, ready: Ready) -> None:
        """Take places.

        Args:
            need: how many.
            ready: what the engine has.

        Raises:
            ApiError: there are not as many free.
        """
        whole = self.taken.plus(need)
        if whole.num_rows > ready.max_num_rows:
            raise ApiError(
                "overloaded",
                f"{self.taken.num_rows} answers run or wait, and this request wants places for {need.num_rows}; there "
                f"are {ready.max_num_rows}: try again later",
            )
        if whole.num_tokens > ready.max_queued_tokens:
            raise ApiError(
                "overloaded",
                f"prompts of {self.taken.num_tokens} tokens wait, and those of this request have {need.num_tokens}; "
                f"the queue holds {ready.max_queued_tokens}: try again later",
            )
        self.taken = whole

    def give_back(self, need: Need) -> None:
        """Give places back."""
        self.taken = self.taken.plus(need, -1)


class Share:
    """The places of one request's parts, which come into the engine's hands one after the other.

    Args:
        places: where they are taken from.
        parts: what will be handed in.
        at_once: most answers of these in the engine's hands at the same time, one part whatever it has.
    """

    def __init__(self, places: Places, parts: Sequence[Submit], at_once: int) -> None:
        self._places, self._parts, self._at_once = places, parts, at_once
        self._most = self._held = self._in_hand = Need()
        self._left = Need(sum(map(num_answers, parts)), sum(map(_num_tokens, parts)))
        self._waiting: dict[tuple[int, int], int] = {}  # tokens of each answer that has not begun

    def take(self, ready: Ready) -> None:
        """Take all places that will be needed at the same time.

        Raises:
            ApiError: there will never be so many, or not now.
        """
        for part in self._parts:
            _check_possible(part, ready)
        most_answers = max(map(num_answers, self._parts))
        num_together = max(1, self._at_once // most_answers)
        longest = sorted(map(_num_tokens, self._parts), reverse=True)[:num_together]
        self._most = Need(max(self._at_once, most_answers), min(sum(longest), ready.max_queued_tokens))
        need = self._needed()
        self._places.take(need, ready)
        self._held = need

    def has_room(self, part: Submit) -> bool:
        """Whether a part may be handed in."""
        more = self._in_hand.plus(_need(part))
        return not self._in_hand.num_rows or (
            more.num_rows <= self._most.num_rows and more.num_tokens <= self._most.num_tokens
        )

    def enter(self, index: int, part: Submit) -> None:
        """A part has been handed in."""
        self._in_hand = self._in_hand.plus(_need(part))
        self._waiting |= {(index, choice): len(part.prompt_ids) for choice in range(num_answers(part))}

    def see(self, index: int, event: RequestEvent) -> None:
        """What has come of a part: an answer that has begun waits no more, and one that has ended needs no place."""
        if not isinstance(event, Tokens | Computed | Ended):
            return
        choice = 0 if isinstance(event, Computed) else event.choice
        begun = self._waiting.pop((index, choice), 0)
        if begun or isinstance(event, Ended):
            done = Need(int(isinstance(event, Ended)), begun)
            self._in_hand, self._left = self._in_hand.plus(done, -1), self._left.plus(done, -1)
            self._hold(self._needed())

    def give_back(self) -> None:
        """Nothing more is wanted, whatever still comes."""
        self._most = Need()
        self._hold(self._needed())

    def _needed(self) -> Need:
        return Need(
            min(self._left.num_rows, self._most.num_rows),
            min(self._left.num_tokens, self._most.num_tokens),
        )

    def _hold(self, need: Need) -> None:
        self._places.give_back(self._held.plus(need, -1))
        self._held = need


def num_answers(part: Submit) -> int:
    """How many ends it will have."""
    return part.params.n if part.task == "generate" else 1


def _num_tokens(part: Submit) -> int:
    return num_answers(part) * len(part.prompt_ids)


def _need(part: Submit) -> Need:
    return Need(num_answers(part), _num_tokens(part))


def _check_possible(part: Submit, ready: Ready) -> None:
    need = _need(part)
    if need.num_rows > ready.max_num_rows:
        raise ApiError(
            "invalid", f"n is {need.num_rows}; this server has places for {ready.max_num_rows} answers", param="n"
        )
    if need.num_tokens > ready.max_queued_tokens:
        raise ApiError(
            "invalid",
            f"a prompt of {len(part.prompt_ids)} tokens for {need.num_rows} answers is too much for the queue, which "
            f"holds {ready.max_queued_tokens}: shorten it, or ask for fewer answers",
        )
