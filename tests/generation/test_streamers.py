"""Streamers: whole characters, everything that decoding gives, and an end whatever happens."""

import io
import queue
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from seed_oss import SeedOssTokenizer, TextIteratorStreamer, TextStreamer
from seed_oss.errors import InputError, NumericalError
from seed_oss.generation import BaseStreamer, generate
from seed_oss.generation.text import WindowDecoder
from tests.chat.tokenizer_factory import write_tiny_tokenizer
from tests.generation.helpers import ScriptedModel

TEXT = "Grüße 🙂👩‍👩‍👧‍👦 工具调用 हिन्दी\nand more."


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module", params=["ours", "theirs"])
def tokenizer(request: pytest.FixtureRequest, folder: Path) -> Any:
    if request.param == "ours":
        return SeedOssTokenizer.from_pretrained(folder)
    return transformers.PreTrainedTokenizerFast.from_pretrained(folder)


class Collector(TextStreamer):
    """Keeps what it would print."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.pieces: list[str] = []
        self.ended = 0

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        self.pieces.append(text)
        self.ended += stream_end


def _speak(tokenizer: Any, streamer: Any, text: str = TEXT, **arguments: Any) -> torch.Tensor:
    script = tokenizer.encode(text, add_special_tokens=False) + [2]
    prompt = torch.tensor([tokenizer.encode("What é?", add_special_tokens=False)])
    model = ScriptedModel([script], vocab_size=512)
    result = generate(model, prompt, streamer=streamer, **{"max_new_tokens": 200, **arguments})
    assert isinstance(result, torch.Tensor)
    return result


def test_pieces_joined_are_the_decoded_text(tokenizer: Any) -> None:
    streamer = Collector(tokenizer)
    ids = _speak(tokenizer, streamer)
    assert "".join(streamer.pieces) == tokenizer.decode(ids[0].tolist()) == "What é?" + TEXT + "<seed:eos>"
    assert "\ufffd" not in "".join(streamer.pieces)
    assert streamer.pieces[0] == "What é?"
    assert len([piece for piece in streamer.pieces if piece]) > 20
    assert streamer.ended == 1


def test_without_prompt_and_special_tokens(tokenizer: Any) -> None:
    streamer = Collector(tokenizer, skip_prompt=True, skip_special_tokens=True)
    for _ in range(2):  # usable again
        streamer.pieces = []
        _speak(tokenizer, streamer)
        assert "".join(streamer.pieces) == TEXT


def test_an_unfinished_character_comes_at_the_end(tokenizer: Any) -> None:
    length = len(tokenizer.encode("🙂", add_special_tokens=False)) - 1
    streamer = Collector(tokenizer, skip_prompt=True)
    _speak(tokenizer, streamer, "🙂", max_new_tokens=length)
    assert [piece for piece in streamer.pieces if piece] == ["\ufffd"]


def test_printing(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    printed = io.StringIO()
    monkeypatch.setattr(sys, "stdout", printed)
    _speak(tokenizer, TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True))
    assert printed.getvalue() == TEXT + "\n"


def test_one_row_only(tokenizer: Any) -> None:
    streamer = Collector(tokenizer)
    with pytest.raises(InputError, match="shows one sequence, got 2"):
        generate(ScriptedModel([[9]], 512), torch.tensor([[3], [4]]), streamer=streamer, max_new_tokens=3)
    assert streamer.ended == 1


def test_unknown_decode_arguments(folder: Path) -> None:
    with pytest.raises(InputError, match="decode\\(\\) does not take skip_specials"):
        TextStreamer(SeedOssTokenizer.from_pretrained(folder), skip_specials=True)


def test_what_a_streamer_is_given() -> None:
    calls: list[Any] = []

    class Foreign:  # no class of ours, as one written for transformers
        def put(self, value: torch.Tensor) -> None:
            calls.append(value.tolist())

        def end(self) -> None:
            calls.append("end")

    generate(ScriptedModel([[9, 10, 2], [11]]), torch.tensor([[3, 4], [5, 6]]), streamer=Foreign(), max_new_tokens=4)
    assert calls == [[[3, 4], [5, 6]], [9, 11], [10, 11], [2, 11], [1, 11], "end"]


def test_prompt_rows_are_repeated_for_the_streamer() -> None:
    shapes: list[Any] = []

    class Shapes(BaseStreamer):
        def put(self, value: torch.Tensor) -> None:
            shapes.append(tuple(value.shape))

        def end(self) -> None:
            shapes.append("end")

    generate(
        ScriptedModel([[9]]),
        torch.tensor([[3, 4]]),
        streamer=Shapes(),
        max_new_tokens=2,
        do_sample=True,
        num_return_sequences=3,
    )
    assert shapes == [(3, 2), (3,), (3,), "end"]


class TestIterator:
    @staticmethod
    def _in_thread(model: Any, streamer: Any, **arguments: Any) -> tuple[threading.Thread, list[BaseException]]:
        errors: list[BaseException] = []

        def run() -> None:
            try:
                generate(model, torch.tensor([[30, 31]]), streamer=streamer, **arguments)
            except ValueError as error:
                errors.append(error)
            except ArithmeticError as error:
                errors.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        return thread, errors

    def test_text_arrives_in_another_thread(self, tokenizer: Any) -> None:
        streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, timeout=60, skip_special_tokens=True)
        script = tokenizer.encode(TEXT, add_special_tokens=False) + [2]
        thread, errors = self._in_thread(ScriptedModel([script], 512), streamer, max_new_tokens=200)
        pieces = list(streamer)
        thread.join()
        assert "".join(pieces) == TEXT
        assert not errors

    def test_an_error_while_generating_ends_the_iteration(self, tokenizer: Any) -> None:
        class Bad(ScriptedModel):
            def logits(self, row: int, step: int) -> torch.Tensor:
                logits = super().logits(row, step)
                return logits.fill_(float("nan")) if step == 3 else logits

        streamer = TextIteratorStreamer(tokenizer, timeout=60)
        thread, errors = self._in_thread(Bad([[40]], 512), streamer, max_new_tokens=9)
        pieces: list[str] = []
        with pytest.raises(NumericalError):
            pieces.extend(streamer)
        thread.join()
        assert "".join(pieces) == tokenizer.decode([30, 31, 40, 40, 40])
        assert len(errors) == 1

    def test_an_error_in_the_arguments_ends_the_iteration(self, tokenizer: Any) -> None:
        streamer = TextIteratorStreamer(tokenizer, timeout=60)
        thread, errors = self._in_thread(ScriptedModel([[40]], 512), streamer, max_new_token=9)
        with pytest.raises(InputError, match="max_new_token"):
            list(streamer)
        thread.join()
        assert len(errors) == 1

    def test_nothing_comes(self, tokenizer: Any) -> None:
        streamer = TextIteratorStreamer(tokenizer, timeout=0.01)
        with pytest.raises(queue.Empty):
            next(streamer)


def test_a_streamer_that_fails_is_told_so_and_its_error_is_raised() -> None:
    told: list[BaseException] = []

    class Full(BaseStreamer):
        def put(self, value: torch.Tensor) -> None:
            raise OSError("disk full")

        def end(self) -> None: ...

        def fail(self, error: BaseException) -> None:
            told.append(error)

    with pytest.raises(OSError, match="disk full"):
        generate(ScriptedModel([[9]]), torch.tensor([[3]]), streamer=Full(), max_new_tokens=2)
    assert [str(error) for error in told] == ["disk full"]


class Bytes:
    """A tokenizer of bytes; id 256 has no text."""

    def decode(self, token_ids: Any, **_: Any) -> str:
        return bytes(token for token in token_ids if token < 256).decode("utf-8", errors="replace")


@settings(deadline=None)
@given(st.lists(st.integers(0, 256) | st.sampled_from(list("é🙂工".encode())), max_size=300), st.integers(1, 5))
def test_a_window_shows_any_bytes_as_decoding_does(ids: list[int], step: int) -> None:
    decoder = WindowDecoder(Bytes(), {})
    pieces = [decoder.feed(ids[i : i + step]) for i in range(0, len(ids), step)]
    assert "".join(pieces) + decoder.finish() == Bytes().decode(ids)


@settings(deadline=None)
@given(st.text(st.characters(codec="utf-8", exclude_characters="\ufffd"), max_size=100))
def test_a_window_never_cuts_a_character(text: str) -> None:
    decoder = WindowDecoder(Bytes(), {})
    assert [piece for byte in text.encode() if (piece := decoder.feed([byte]))] == list(text)


@pytest.mark.parametrize("after", ["", "a", "é", "\ufffd"])
def test_a_window_keeps_a_replacement_character_that_is_text(after: str) -> None:
    """It looks like the start of a character, so it waits for what follows, or for the end."""
    decoder = WindowDecoder(Bytes(), {})
    pieces = [decoder.feed([byte]) for byte in f"b\ufffd{after}".encode()]
    assert "".join(pieces) + decoder.finish() == f"b\ufffd{after}"


@pytest.mark.parametrize("offset", range(4))
def test_a_window_moves_on_in_the_middle_of_a_character(offset: int) -> None:
    text = "a" * offset + "🙂" * 60
    decoder = WindowDecoder(Bytes(), {})
    assert [piece for byte in text.encode() if (piece := decoder.feed([byte]))] == list(text)


def test_a_window_stays_small() -> None:
    longest = 0

    class Watched(Bytes):
        def decode(self, token_ids: Any, **kwargs: Any) -> str:
            nonlocal longest
            longest = max(longest, len(token_ids))
            return super().decode(token_ids)

    decoder = WindowDecoder(Watched(), {})
    for _ in range(5000):
        decoder.feed([0xF0])  # the first byte of a character, again and again
    assert longest <= 65
