"""A conversation whose keys and values are kept from turn to turn."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from seed_oss.cli.answering import Answer, encode_messages, stream_answer
from seed_oss.cli.loading import Loaded

if TYPE_CHECKING:
    from torch import Tensor

    from seed_oss.cache import DynamicCache


class Conversation:
    """Messages so far, and the cache of the last turn; a turn computes only what is new in it.

    Args:
        loaded: model and tokenizer.
        settings: keyword arguments of `generate`.
        system: system message, or None.
    """

    def __init__(self, loaded: Loaded, settings: dict[str, Any], system: str | None = None) -> None:
        self._loaded = loaded
        self._settings = settings
        self._system = system
        self.reset()

    def reset(self) -> None:
        """Forget all but the system message."""
        self.messages = [{"role": "system", "content": self._system}] if self._system is not None else []
        self._forget_cache()

    def reply(self, message: str, show: Callable[[str], None]) -> tuple[Answer, bool]:
        """Answer a message.

        Args:
            message: what the user says.
            show: gets every piece of the answer.

        Returns:
            `(answer, is_whole)`; an answer stopped with Ctrl-C is not whole and stays in the conversation as far as
            it came. If nothing came, the message is taken back.

        Raises:
            SeedOssError: there is no answer; the message is taken back.
        """
        messages = [*self.messages, {"role": "user", "content": message}]
        answer, is_whole = Answer(), True
        try:
            self._compute(encode_messages(self._loaded, messages), show, answer)
        except KeyboardInterrupt:
            is_whole = False
            self._forget_cache()  # it may have been stopped between two layers
        except BaseException:
            self._forget_cache()
            raise
        if is_whole or answer.pieces:
            self.messages = [*messages, {"role": "assistant", "content": answer.text}]
        return answer, is_whole

    def _compute(self, input_ids: "Tensor", show: Callable[[str], None], answer: Answer) -> None:
        cache = self._cache_for(input_ids[0].tolist())
        result = stream_answer(self._loaded, input_ids, self._settings, show, answer, cache)
        self._cache, self._cached_ids = cache, result[0, : cache.get_seq_length()].tolist()

    def _cache_for(self, ids: list[int]) -> "DynamicCache":
        """The cache, cut to what it has in common with `ids`; at least one id is left to compute."""
        from seed_oss.cache import DynamicCache

        num_common = 0
        for cached, wanted in zip(self._cached_ids, ids[:-1], strict=False):
            if cached != wanted:
                break
            num_common += 1
        if self._cache is None or num_common == 0:
            return DynamicCache(config=self._loaded.model.config)
        self._cache.crop(num_common)
        return self._cache

    def _forget_cache(self) -> None:
        self._cache: DynamicCache | None = None
        self._cached_ids: list[int] = []
