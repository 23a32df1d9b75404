"""The decoders of the tokenizers package as stages that take one token at a time.

A decoder turns the list of all tokens into a list of pieces of text, joined in the end; a Sequence chains several. Each
stage here gives the same pieces for the same tokens, as early as no later token can change them:

    kind of decoder                     waits for
    Replace, Strip, CTC                 nothing
    Metaspace, WordPiece, no decoder    nothing, but treats the first token differently
    BPEDecoder                          the next token, since the last one is treated differently
    ByteFallback                        the end of a run of byte tokens, which is valid as a whole or not at all
    ByteLevel                           the rest of a character
    Fuse                                nothing, but what follows it sees one long token

Where a decoder follows Fuse or ByteLevel and could match across pieces, or is of a kind that is not known here, its
stage waits for the end: late, but right.
"""

import codecs
import copy
import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from tokenizers import Tokenizer

from seed_oss.chat.backend import backend_errors, component_from_json


class Stage(ABC):
    """One decoder, fed token by token."""

    @abstractmethod
    def push(self, token: str) -> list[str]:
        """Take the next token; return the pieces that are now certain."""

    def finish(self) -> list[str]:
        """Say that no token follows; return the remaining pieces."""
        return []

    def copy(self) -> "Stage":
        """A stage in the same state that goes on by itself."""
        return copy.copy(self)


class _PerToken(Stage):
    """A decoder that looks at one token only, and perhaps at whether it is the first."""

    def __init__(self, decode: Callable[[list[str]], str], *, first_differs: bool = False) -> None:
        self._decode = decode
        self._later = False
        self._first_differs = first_differs

    def push(self, token: str) -> list[str]:
        tokens = ["", token] if self._later else [token]
        self._later = self._first_differs
        return [self._decode(tokens)]


class _Joined(Stage):
    """No decoder: tokens are joined by spaces."""

    def __init__(self) -> None:
        self._space = ""

    def push(self, token: str) -> list[str]:
        piece, self._space = self._space + token, " "
        return [piece]


class _Ctc(Stage):
    """Drops a token that equals the one before it."""

    def __init__(self, decode: Callable[[list[str]], str]) -> None:
        self._decode = decode
        self._previous: str | None = None

    def push(self, token: str) -> list[str]:
        if token == self._previous:
            return []
        self._previous = token
        piece = self._decode([token])
        return [piece] if piece else []


class _LastDiffers(Stage):
    """A decoder that treats the last token differently."""

    def __init__(self, decode: Callable[[list[str]], str]) -> None:
        self._decode = decode
        self._held: str | None = None

    def push(self, token: str) -> list[str]:
        held, self._held = self._held, token
        return [] if held is None else [self._decode([held, ""])]

    def finish(self) -> list[str]:
        return [] if self._held is None else [self._decode([self._held])]


class _ByteFallback(Stage):
    """Byte tokens `<0xE2>` that stand in a row are one UTF-8 text, or one replacement character each."""

    def __init__(self) -> None:
        self._run = bytearray()

    def push(self, token: str) -> list[str]:
        byte = _byte_of(token)
        if byte is not None:
            self._run.append(byte)
            return []
        return [*self.finish(), token]

    def finish(self) -> list[str]:
        run, self._run = self._run, bytearray()
        try:
            return [run.decode("utf-8")] if run else []
        except UnicodeDecodeError:
            return ["\ufffd"] * len(run)

    def copy(self) -> Stage:
        other = copy.copy(self)
        other._run = bytearray(self._run)
        return other


class _ByteLevel(Stage):
    """Every character of a token stands for one byte; the bytes together are UTF-8."""

    def __init__(self) -> None:
        self._pending = b""

    def push(self, token: str) -> list[str]:
        return self._decoded(token_bytes(token), final=False)

    def finish(self) -> list[str]:
        return self._decoded(b"", final=True)

    def _decoded(self, data: bytes, *, final: bool) -> list[str]:
        if not self._pending and data.isascii():
            return [data.decode("ascii")] if data else []
        decoder = _Utf8(errors="replace")
        text = decoder.decode(self._pending + data, final)
        self._pending = decoder.getstate()[0]
        return [text] if text else []


class _Fuse(Stage):
    """Joins all tokens; the pieces of the joined one pass through."""

    def push(self, token: str) -> list[str]:
        return [token]


class _FusedStrip(Stage):
    """Drops up to `start` leading characters of one long token given in pieces."""

    def __init__(self, content: str, start: int) -> None:
        self._content = content
        self._left = start

    def push(self, token: str) -> list[str]:
        cut = 0
        while cut < len(token) and cut < self._left and token[cut] == self._content:
            cut += 1
        self._left = self._left - cut if cut == len(token) else 0
        return [token[cut:]]


class _Whole(Stage):
    """Any decoders, one after the other: waits for the end."""

    def __init__(self, decode: Callable[[list[str]], str], *, fused: bool) -> None:
        self._decode = decode
        self._fused = fused
        self._tokens: list[str] = []

    def push(self, token: str) -> list[str]:
        self._tokens.append(token)
        return []

    def finish(self) -> list[str]:
        tokens = ["".join(self._tokens)] if self._fused else self._tokens
        return [self._decode(tokens)] if tokens else []

    def copy(self) -> Stage:
        other = copy.copy(self)
        other._tokens = list(self._tokens)
        return other


def build_stages(tokenizer: Tokenizer) -> list[Stage]:
    """Make the stages of a tokenizer's decoder, in the order they run.

    Args:
        tokenizer: The tokenizer, with or without a decoder.
    """
    if tokenizer.decoder is None:
        return [_Joined()]
    state: Any = tokenizer.decoder
    components = _flattened(json.loads(state.__getstate__()))
    stages: list[Stage] = []
    fused = False
    for index, component in enumerate(components):
        stage = _fused_stage(component) if fused else _stage(component)
        if stage is None:
            rest = {"type": "Sequence", "decoders": components[index:]}
            return [*stages, _Whole(_decode_of(rest), fused=fused)]
        stages.append(stage)
        fused = fused or component["type"] in ("Fuse", "ByteLevel")
    return stages


def token_bytes(token: str) -> bytes:
    """The bytes that a byte-level token stands for; a token with other characters in it stands for itself."""
    try:
        return bytes([_BYTES[char] for char in token])
    except KeyError:
        return token.encode("utf-8")


def _flattened(component: dict[str, Any]) -> list[dict[str, Any]]:
    if component["type"] != "Sequence":
        return [component]
    return [inner for child in component["decoders"] for inner in _flattened(child)]


def _stage(component: dict[str, Any]) -> Stage | None:
    """The stage for tokens that are still apart; None if it must wait for the end."""
    kind = component["type"]
    if kind in ("Replace", "Strip"):
        return _PerToken(_decode_of(component))
    if kind in ("Metaspace", "WordPiece"):
        return _PerToken(_decode_of(component), first_differs=True)
    if kind == "BPEDecoder":
        return _LastDiffers(_decode_of(component))
    if kind == "CTC":
        return _Ctc(_decode_of(component))
    simple: dict[str, Callable[[], Stage]] = {"ByteFallback": _ByteFallback, "ByteLevel": _ByteLevel, "Fuse": _Fuse}
    return simple[kind]() if kind in simple else None


def _fused_stage(component: dict[str, Any]) -> Stage | None:
    """The stage for one long token in pieces; None if it must wait for the end."""
    kind = component["type"]
    if kind == "Fuse":
        return _Fuse()
    if kind == "Strip" and component["stop"] == 0:
        return _FusedStrip(component["content"], component["start"])
    if kind == "Metaspace" or (kind == "Replace" and len(component["pattern"].get("String", "")) == 1):
        return _PerToken(_decode_of(component))
    return None


def _decode_of(component: dict[str, Any]) -> Callable[[list[str]], str]:
    """The package's own decoder for one component."""
    decoder = component_from_json("decoder", component)

    def decode(tokens: list[str]) -> str:
        with backend_errors("the tokens cannot be decoded"):
            return decoder.decode(tokens)

    return decode


def _byte_of(token: str) -> int | None:
    if len(token) != 6 or not token.startswith("<0x") or not token.endswith(">") or not token.isascii():
        return None
    digits = token[3:5]
    try:
        return int(digits, 16) if digits.isalnum() or digits[0] == "+" else None
    except ValueError:
        return None


def _byte_characters() -> dict[str, int]:
    """Printable Latin-1 characters stand for themselves, the other bytes for characters from U+0100 on, in order."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(0x100 + place): byte for place, byte in enumerate(hidden)}


_BYTES = _byte_characters()
_Utf8 = codecs.getincrementaldecoder("utf-8")
