"""Pieces from ids: control tokens are told from text that spells them, whatever the cuts and the decoder."""

import random

import pytest
from tokenizers import AddedToken, Tokenizer

from seed_oss.chat import Detokenizer, SeedOssTokenizer, parse
from seed_oss.chat.backend import Backend
from seed_oss.chat.control_tokens import EOS, SEED_CONTROL_TOKENS, THINK, ControlToken, Piece, join
from seed_oss.errors import TokenizerError
from tests.chat.test_detokenizer import _BACKENDS
from tests.seed_tokenizer import seed_tokenizer

TOKENIZER = seed_tokenizer()
CONTROL_IDS = {token: TOKENIZER.get_vocab()[token.text] for token in SEED_CONTROL_TOKENS}


def encoded(pieces: list[Piece]) -> list[int]:
    """Ids of pieces: control tokens by their own ids, text without any."""
    ids: list[int] = []
    for piece in pieces:
        if isinstance(piece, ControlToken):
            ids.append(CONTROL_IDS[piece])
        else:
            ids += plain_ids(piece)
    return ids


def plain_ids(text: str) -> list[int]:
    """Ids of text in which markers are only text: each `<` is encoded by itself."""
    return [token for part in text.replace("<", "\0<\0").split("\0") for token in TOKENIZER(part).input_ids]


def decoded(
    ids: list[int], tokenizer: SeedOssTokenizer = TOKENIZER, *, size: int = 1, **arguments: bool
) -> list[Piece]:
    """Pieces of ids given a few at a time, neighbouring texts joined."""
    detokenizer = tokenizer.detokenizer(**arguments)
    pieces = [
        piece for place in range(0, len(ids), size) for piece in detokenizer.put_pieces(ids[place : place + size])
    ]
    return joined([*pieces, *detokenizer.finish_pieces()])


def joined(pieces: list[Piece]) -> list[Piece]:
    """Neighbouring texts as one."""
    done: list[Piece] = []
    for piece in pieces:
        assert piece != ""
        if done and isinstance(piece, str) and isinstance(done[-1], str):
            done[-1] += piece
        else:
            done.append(piece)
    return done


def test_control_tokens_and_text_that_spells_them() -> None:
    pieces: list[Piece] = ["naïve <seed:think> 🦜", THINK, "</seed:think>", EOS, EOS, "é"]
    for size in (1, 2, 3, 100):
        assert decoded(encoded(pieces), size=size) == pieces


def test_random_ids_join_to_their_decode() -> None:
    rng = random.Random(5)
    for _ in range(300):
        ids = [rng.randrange(9 if rng.random() < 0.3 else len(TOKENIZER)) for _ in range(rng.randint(0, 40))]
        pieces = decoded(ids, size=rng.randint(1, 9))
        assert join(pieces) == TOKENIZER.decode(ids)
        tokens = [piece for piece in pieces if isinstance(piece, ControlToken)]
        assert [CONTROL_IDS[token] for token in tokens] == [token for token in ids if token < 9]


def test_a_character_cut_off_by_a_control_token() -> None:
    half = TOKENIZER("\U0001f642").input_ids[:-1]
    pieces = decoded([*half, CONTROL_IDS[THINK], *TOKENIZER("é").input_ids])
    assert pieces == ["\ufffd", THINK, "é"]


def test_skipped_or_not_and_special_or_not() -> None:
    assert TOKENIZER.all_special_tokens[:1] == ["<seed:bos>"]
    assert decoded([0, *plain_ids("a"), 3, 2], skip_special_tokens=True) == [SEED_CONTROL_TOKENS[0], "a", THINK, EOS]


def test_other_added_tokens_are_text() -> None:
    tokenizer = seed_tokenizer()
    tokenizer.add_tokens([AddedToken("<n>"), AddedToken("<s>", special=True)])
    ids = [tokenizer.get_vocab()["<n>"], tokenizer.get_vocab()["<s>"], 3]
    assert decoded(ids, tokenizer) == ["<n><s>", THINK]
    assert decoded(ids, tokenizer, skip_special_tokens=True) == ["<n>", THINK]


@pytest.mark.parametrize("name", _BACKENDS)
def test_any_decoder_keeps_control_tokens_apart(name: str) -> None:
    tokenizer: Tokenizer = _BACKENDS[name]()
    tokenizer.add_tokens([AddedToken(token.text, normalized=False) for token in SEED_CONTROL_TOKENS])
    control = [tokenizer.token_to_id(token.text) for token in SEED_CONTROL_TOKENS]
    rng = random.Random(6)
    for _ in range(40):
        ids = [rng.choice((rng.choice(control), rng.randrange(20))) for _ in range(rng.randint(1, 12))]
        detokenizer = Detokenizer(Backend(tokenizer))
        pieces = joined([*detokenizer.put_pieces(ids), *detokenizer.finish_pieces()])
        wanted = [tokenizer.id_to_token(token_id) for token_id in ids if token_id in control]
        assert [piece.text for piece in pieces if isinstance(piece, ControlToken)] == wanted
        assert not any(
            token.text in piece for token in SEED_CONTROL_TOKENS for piece in pieces if isinstance(piece, str)
        )
        one_by_one = Detokenizer(Backend(tokenizer))
        again = [piece for token_id in ids for piece in one_by_one.put_pieces(token_id)]
        assert joined([*again, *one_by_one.finish_pieces()]) == pieces


def test_wrong_ids() -> None:
    with pytest.raises(TokenizerError, match="token ids are integers"):
        TOKENIZER.detokenizer().put_pieces([3, -1])
    assert decoded([10**6, 3]) == [THINK]


def test_a_copy_goes_on_by_itself() -> None:
    detokenizer = TOKENIZER.detokenizer()
    detokenizer.put_pieces(TOKENIZER("\U0001f642").input_ids[:1])
    other = detokenizer.copy()
    assert other.put_pieces([3]) == ["\ufffd", THINK]
    assert joined([*detokenizer.put_pieces(TOKENIZER("\U0001f642").input_ids[1:])]) == ["\U0001f642"]


def test_from_ids_to_a_message() -> None:
    call = ["\n<function=f>\n<parameter=a><seed:think></parameter>\n</function>\n"]
    think, close, call_open, call_close = (SEED_CONTROL_TOKENS[place] for place in (3, 4, 7, 8))
    pieces = [think, "Say </seed:think>?", close, "\nNo: <seed:eos>.\n\n", call_open, *call, call_close, EOS]
    message = parse(decoded(encoded(pieces), size=4))
    assert (message.reasoning, message.content) == ("Say </seed:think>?", "No: <seed:eos>.")
    assert [read.parsed_arguments() for read in message.tool_calls] == [{"a": "<seed:think>"}]
    assert message.ended
