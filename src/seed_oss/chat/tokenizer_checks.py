"""What a tokenizer.json may ask for. The tokenizers package aborts the process on some of it: checked first."""

import base64
import binascii
import math
from collections.abc import Collection, Iterator
from typing import Any, NoReturn, cast

from seed_oss.chat.pattern_checks import slow_pattern_reason
from seed_oss.errors import TokenizerError
from seed_oss.files.names import short

MAX_WORDS = 2**19  # words of a vocabulary: twice as many as the largest have
MAX_MERGES = 2**20
MAX_ADDED_TOKENS = 16_384  # adding them takes the package time quadratic in their number
MAX_TOKEN_LEN = 1_024  # characters of an added token
MAX_TOKENS_LEN = 2**18  # characters of all added tokens, from which the package builds a machine that finds them
MAX_GROWTH = 4_096  # bytes that one byte of text can become before the model, or one byte of tokens in decoders
MAX_PATTERN_LEN = 8_192  # characters of a regular expression
MAX_TEMPLATE_TOKENS = 1_024  # special tokens that the post-processor adds to one text
MAX_COMPONENTS = 256  # normalizers, pre-tokenizers, decoders or post-processors in one file
MAX_PIECE_LEN = 1_024  # characters of a word of a Unigram model, whose tree the package takes apart by recursion
MAX_WORD_LEN = 10_000  # max_input_chars_per_word of a WordPiece model, whose time grows with its square
MAX_CHARSMAP_PIECE = 256  # bytes that one character can become in a precompiled normalizer

# Bytes that one byte can become: byte-level characters take two, each word may get a space of two more in front.
_GROWTH_OF = {"ByteLevel": 2, "BertNormalizer": 2, "Metaspace": 4}
_GROWTH_WITH_PREFIX = 2
_GROWTH_WITHOUT_TYPE = 8

_PARTS = ("normalizer", "pre_tokenizer", "decoder", "post_processor")
_FIELD_OF = {
    "Replace": "content",
    "Prepend": "prepend",
    "Precompiled": "precompiled_charsmap",
    "FixedLength": "length",
    "TemplateProcessing": "single",
}
_CHILDREN = ("normalizers", "pretokenizers", "decoders", "processors")


def check_tokenizer_json(value: Any, source: str) -> dict[str, Any]:
    """Check the parsed content of a tokenizer.json against the limits of this file.

    Args:
        value: What the strict JSON parser returned.
        source: Name of the file, for messages.

    Returns:
        The same value.

    Raises:
        TokenizerError: It is not an object with a model, or asks for too much.
    """
    return _Check(source).whole(value)


def check_added_tokens(texts: Collection[str], source: str) -> None:
    """Check how many added tokens a file asks for, and how long they are.

    Args:
        texts: The tokens.
        source: Name of the file, for messages.

    Raises:
        TokenizerError: They are too many, or too long.
    """
    limit = _Check(source).limit
    limit(len(texts), MAX_ADDED_TOKENS, "number of added tokens")
    limit(max(map(len, texts), default=0), MAX_TOKEN_LEN, "length of an added token")
    limit(sum(map(len, texts)), MAX_TOKENS_LEN, "length of all added tokens together")


class _Check:
    def __init__(self, source: str) -> None:
        self._source = source

    def whole(self, value: Any) -> dict[str, Any]:
        tokenizer = self._object(value, "the file")
        model = self._object(tokenizer.get("model"), "model")
        self.limit(_int(model.get("max_input_chars_per_word")), MAX_WORD_LEN, "max_input_chars_per_word")
        self._pieces(model)
        for name, limit in (("vocab", MAX_WORDS), ("merges", MAX_MERGES)):
            entries = model.get(name)
            num_entries = len(cast("list[Any]", entries)) if isinstance(entries, dict | list) else 0
            self.limit(num_entries, limit, f"number of entries of {name}")
        self._merges(model)
        self._added_tokens(tokenizer.get("added_tokens"))
        growth: dict[str, int] = {}
        for name in _PARTS:
            components = list(self._components(tokenizer.get(name)))
            self.limit(len(components), MAX_COMPONENTS, f"number of components of the {name}")
            growth[name] = self._growth(components, name)
            for component in components:
                self._component(component, name)
        before_model = growth["normalizer"] * growth["pre_tokenizer"]
        self.limit(before_model, MAX_GROWTH, "growth of text in normalizer and pre_tokenizer (bytes out per byte in)")
        self._templates([c for c in self._components(tokenizer.get("post_processor")) if _is(c, "TemplateProcessing")])
        return tokenizer

    def _pieces(self, model: dict[str, Any]) -> None:
        """The words of a Unigram model: a list of pairs, where other models have a mapping."""
        vocabulary = model.get("vocab")
        if isinstance(vocabulary, list):
            pairs = [cast("list[Any]", pair) for pair in cast("list[Any]", vocabulary) if isinstance(pair, list)]
            longest = max((len(pair[0]) for pair in pairs if pair and isinstance(pair[0], str)), default=0)
            self.limit(longest, MAX_PIECE_LEN, "length of a word of the Unigram model")

    def _merges(self, model: dict[str, Any]) -> None:
        """The package cuts as many bytes off the right half of a merge as the prefix has characters, unchecked."""
        prefix = model.get("continuing_subword_prefix")
        if not isinstance(prefix, str) or not prefix:
            return
        rights = [_right_half(merge) for merge in self._list(model.get("merges"), "merges")]
        if not prefix.isascii() or not all(right.startswith(prefix) for right in rights):
            self._refuse("continuing_subword_prefix must be ASCII and start the right half of every merge")

    def _added_tokens(self, value: Any) -> None:
        contents = [self._object(token, "an added token").get("content") for token in self._list(value, "added_tokens")]
        check_added_tokens([text for text in contents if isinstance(text, str)], self._source)

    def _components(self, value: Any) -> Iterator[dict[str, Any]]:
        """The component and those nested in it, in the order they run."""
        if isinstance(value, dict):
            component = cast("dict[str, Any]", value)
            yield component
            for name in _CHILDREN:
                for child in self._list(component.get(name), name):
                    yield from self._components(child)

    def _component(self, component: dict[str, Any], part: str) -> None:
        pattern = component.get("pattern")
        if isinstance(pattern, dict):
            regex = cast("dict[str, Any]", pattern).get("Regex")
            self._pattern(regex if isinstance(regex, str) else "", part)
        if _is(component, "FixedLength") and not _int(component.get("length")):
            self._refuse("length of a FixedLength pre-tokenizer is 0; at least 1 is needed")

    def _pattern(self, pattern: str, part: str) -> None:
        self.limit(len(pattern), MAX_PATTERN_LEN, f"length of a pattern of {part}")
        reason = slow_pattern_reason(pattern)
        if reason is not None:
            self._refuse(
                f"pattern {short(pattern)} of the {part} {reason}; allowed are patterns that take linear time, as "
                "those of GPT-2, Llama 3, Qwen 2, DeepSeek, GPT-4o and Seed-Coder do"
            )

    def _growth(self, components: list[dict[str, Any]], part: str) -> int:
        """Replacements one after the other multiply: twenty of ten bytes each would make 10^20 bytes of one."""
        growth = math.prod(self._growth_of(component, part) for component in components)
        self.limit(growth, MAX_GROWTH, f"growth of text in the {part} (bytes out per byte in)")
        return growth

    def _growth_of(self, component: dict[str, Any], part: str) -> int:
        growth = 1
        if _is(component, "Replace") or _is(component, "Prepend"):
            content = component.get("content") if _is(component, "Replace") else component.get("prepend")
            length = len(content.encode("utf-8", "replace")) if isinstance(content, str) else 0
            empty_pattern_too = 1
            growth = max(1, length) + (empty_pattern_too if _may_be_empty(component) else 0)
        if _is(component, "Precompiled"):
            growth *= max(1, *map(len, self._charsmap(component.get("precompiled_charsmap"))))
        if part in ("normalizer", "pre_tokenizer"):
            growth *= _growth_of_kind(component)
        return growth

    def _charsmap(self, value: Any) -> list[bytes]:
        """Header: size of the trie in bytes, the trie, then the replacements, each ended by a zero byte."""
        try:
            blob = base64.b64decode(value if isinstance(value, str) else "", validate=True)
        except (binascii.Error, ValueError):
            self._refuse("precompiled_charsmap is not base64")
        trie_bytes = int.from_bytes(blob[:4], "little")
        if len(blob) < 8 or trie_bytes % 4 or not 0 < trie_bytes <= len(blob) - 4:
            self._refuse(f"precompiled_charsmap has {len(blob)} bytes and a trie of {trie_bytes}; it is damaged")
        pieces = blob[4 + trie_bytes :].split(b"\0")
        self.limit(max(map(len, pieces)), MAX_CHARSMAP_PIECE, "length of a replacement in precompiled_charsmap")
        return pieces

    def _templates(self, templates: list[dict[str, Any]]) -> None:
        total = sum(self._template_tokens(template, name) for template in templates for name in ("single", "pair"))
        self.limit(total, MAX_TEMPLATE_TOKENS, "number of special tokens that the post-processor adds")

    def _template_tokens(self, template: dict[str, Any], name: str) -> int:
        specials = self._object(template.get("special_tokens") or {}, "special_tokens of the post-processor")
        total, sequences = 0, list[str]()
        for item in self._list(template.get(name), f"{name} of the post-processor"):
            piece = self._object(item, f"an item of {name}")
            if "SpecialToken" in piece:
                token = self._object(piece["SpecialToken"], "SpecialToken").get("id")
                if not isinstance(token, str) or token not in specials:
                    self._refuse(f"the post-processor's {name} names a special token that it does not define")
                total += len(self._list(self._object(specials[token], "a special token").get("ids"), "ids"))
            elif "Sequence" in piece:
                sequences.append(str(self._object(piece["Sequence"], "Sequence").get("id")))
        if len(sequences) != len(set(sequences)):
            self._refuse(f"the post-processor's {name} repeats the text")
        return total

    def _object(self, value: Any, what: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            self._refuse(f"{what} must be a JSON object, got {type(value).__name__}")
        return cast("dict[str, Any]", value)

    def _list(self, value: Any, what: str) -> list[Any]:
        if value is None:
            return []
        if not isinstance(value, list):
            self._refuse(f"{what} must be a JSON list, got {type(value).__name__}")
        return cast("list[Any]", value)

    def limit(self, value: int, limit: int, what: str) -> None:
        if value > limit:
            shown = value if value < 10**12 else "far more"
            self._refuse(f"{what} is {shown}; the limit is {limit}")

    def _refuse(self, reason: str) -> NoReturn:
        raise TokenizerError(f"{self._source}: {reason}")


def _is(component: dict[str, Any], kind: str) -> bool:
    """Whether the package may take a component for one of this kind: without a type, it goes by the fields."""
    return component.get("type") == kind or _FIELD_OF[kind] in component


def _growth_of_kind(component: dict[str, Any]) -> int:
    """The growth in a component that changes every byte, or puts something in front of every word."""
    kind = component.get("type")
    if not isinstance(kind, str):  # it goes by the fields; the outer part of that form is a list of others
        return 1 if any(name in component for name in _CHILDREN) else _GROWTH_WITHOUT_TYPE
    growth, prefixed = _GROWTH_OF.get(kind, 1), False
    if kind == "ByteLevel":
        prefixed = component.get("add_prefix_space") is not False
    elif kind == "Metaspace":
        replacement = component.get("replacement")
        growth = max(1, len(replacement.encode("utf-8", "replace"))) if isinstance(replacement, str) else growth
        prefixed = component.get("prepend_scheme") != "never"
    return growth * _GROWTH_WITH_PREFIX if prefixed else growth


def _int(value: Any) -> int:
    return value if isinstance(value, int) else 0


def _right_half(merge: Any) -> str:
    parts = cast("list[Any]", merge) if isinstance(merge, list) else str(merge).split(" ")
    return str(parts[-1]) if parts else ""


def _may_be_empty(component: dict[str, Any]) -> bool:
    """Whether a Replace could match nothing, and so insert instead of replace. Only fixed text is known not to."""
    pattern = component.get("pattern")
    text = cast("dict[str, Any]", pattern).get("String") if isinstance(pattern, dict) else None
    return not text
