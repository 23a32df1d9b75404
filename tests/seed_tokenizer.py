"""A small tokenizer with the control tokens and the chat template of Seed-OSS."""

from functools import lru_cache

from tokenizers import Tokenizer

from seed_oss.chat import SeedOssTokenizer, seed_chat_template
from tests.chat.tokenizer_factory import VOCAB_SIZE, tiny_backend

SEED_TEMPLATE = seed_chat_template("current")
INITIAL_SEED_TEMPLATE = seed_chat_template("initial")


@lru_cache
def _backend_json(vocab_size: int) -> str:
    return tiny_backend(vocab_size).to_str()


def seed_backend(vocab_size: int = VOCAB_SIZE) -> Tokenizer:
    """A byte-level BPE tokenizer whose added tokens are the Seed control tokens, ids 0 to 8; bos 0, pad 1, eos 2.

    Args:
        vocab_size: Number of tokens, control tokens and the 256 bytes included; at least 265.
    """
    return Tokenizer.from_str(_backend_json(vocab_size))


def seed_tokenizer(*, chat_template: str | None = SEED_TEMPLATE, vocab_size: int = VOCAB_SIZE) -> SeedOssTokenizer:
    """A small Seed tokenizer.

    Args:
        chat_template: `SEED_TEMPLATE` renders as the current released one, `INITIAL_SEED_TEMPLATE` as the initial one.
        vocab_size: Number of tokens, at most what the model's embedding holds.
    """
    return SeedOssTokenizer(
        seed_backend(vocab_size),
        chat_template=chat_template,
        bos_token="<seed:bos>",
        pad_token="<seed:pad>",
        eos_token="<seed:eos>",
    )
