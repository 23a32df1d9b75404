"""Row controls: what is forced, banned or stopped in one row, and what the result says of it."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from seed_oss import SeedOssTokenizer
from seed_oss.errors import ConfigError, InputError
from seed_oss.generation import GenerateDecoderOnlyOutput, generate
from seed_oss.generation.row_control import FREE, Directive, RowControl
from tests.chat.tokenizer_factory import write_tiny_tokenizer
from tests.generation.helpers import PAD, ScriptedModel, left_padded, models

IDS = torch.tensor([[3, 4]])
EOS = 2


class Says(RowControl):
    """Gives the directives of a list, one per token, then none; keeps what it was told."""

    def __init__(self, *directives: Directive) -> None:
        self.directives = directives
        self.started: list[tuple[list[int], int]] = []
        self.heard: list[tuple[int, int]] = []

    def start(self, prompt_ids: Sequence[int], max_new_tokens: int) -> int:
        self.started.append((list(prompt_ids), max_new_tokens))
        return 0

    def directive(self, state: int) -> Directive:
        return self.directives[state] if state < len(self.directives) else FREE

    def advance(self, state: int, token_id: int) -> int:
        self.heard.append((state, token_id))
        return state + 1


def _run(script: list[list[int]], controls: Any, ids: torch.Tensor = IDS, **arguments: Any) -> Any:
    how = {"max_new_tokens": 5, "return_dict_in_generate": True, **arguments}
    result = generate(ScriptedModel(script), ids, row_controls=controls, **how)
    assert isinstance(result, GenerateDecoderOnlyOutput)
    return result


def _new(result: Any) -> list[list[int]]:
    return result.sequences[:, 2:].tolist()


def test_forced_tokens() -> None:
    control = Says(FREE, Directive(forced=20), Directive(forced=21))
    result = _run([[9]], control)
    assert _new(result) == [[9, 20, 21, 9, 9]]
    assert result.forced.tolist() == [[False, True, True, False, False]]
    assert control.started == [([3, 4], 5)]
    assert control.heard == [(0, 9), (1, 20), (2, 21), (3, 9), (4, 9)]


def test_a_forced_end_ends_the_row() -> None:
    result = _run([[9]], Says(FREE, Directive(forced=EOS)))
    assert _new(result) == [[9, EOS]]
    assert result.finish_reasons == ["eos"]


def test_forced_tokens_come_where_there_is_no_number() -> None:
    class Broken(ScriptedModel):
        def logits(self, row: int, step: int) -> torch.Tensor:
            return torch.full((64,), torch.nan) if step == 0 else super().logits(row, step)

    result = generate(Broken([[9]]), IDS, row_controls=Says(Directive(forced=7)), max_new_tokens=2)
    assert isinstance(result, torch.Tensor)
    assert result.tolist() == [[3, 4, 7, 9]]


def test_banned_and_allowed() -> None:
    only = torch.zeros(64, dtype=torch.bool)
    only[[30, 31]] = True
    result = _run([[9]], Says(Directive(banned=frozenset({9, 0, 999})), Directive(allowed=only)))
    assert _new(result)[0][:3] == [1, 30, 9]
    assert not result.forced.any()


def test_a_ban_holds_before_top_k() -> None:
    result = _run([[9]], Says(Directive(banned=frozenset({9}))), do_sample=True, top_k=1, seed=0)
    assert _new(result)[0][0] != 9


@pytest.mark.parametrize("length", [40, 64, 80])
def test_a_mask_may_have_another_length_than_the_vocabulary(length: int) -> None:
    allowed = torch.ones(length, dtype=torch.bool)
    allowed[9] = False
    result = _run([[9]], Says(Directive(allowed=allowed), Directive(allowed=torch.ones(9, dtype=torch.bool))))
    assert _new(result)[0][:2] == [0, 0]


def test_stop_ends_the_row_without_a_token() -> None:
    controls = [Says(FREE, FREE, Directive(stop="loop")), None]
    result = _run([[9], [8]], controls, ids=IDS.repeat(2, 1), max_new_tokens=4)
    assert _new(result) == [[9, 9, PAD, PAD], [8, 8, 8, 8]]
    assert result.finish_reasons == ["loop", "length"]


def test_all_rows_stop_at_once() -> None:
    result = _run([[9]], Says(FREE, Directive(stop="loop")), output_logprobs=True, top_logprobs=2)
    assert _new(result) == [[9]]
    assert result.finish_reasons == ["loop"]
    result = _run([[9]], Says(Directive(stop="at once")), output_logprobs=True, top_logprobs=2, output_scores=True)
    assert _new(result) == [[]]
    assert result.finish_reasons == ["at once"]
    assert (result.forced.shape, result.logprobs.shape, result.top_logprobs.shape) == ((1, 0), (1, 0), (1, 0, 2))


def test_the_result_has_the_last_state_of_each_control() -> None:
    ids = IDS.repeat(3, 1)
    controls = [[Says(), Says(FREE, Directive(stop="loop"))], None, Says()]
    assert _run([[9], [9], [9, 9, EOS]], controls, ids=ids, max_new_tokens=4).control_states == [(1, 1), (), (3,)]
    assert _run([[9]], None).control_states is None


class TestWhoSteersWhichRow:
    ids = torch.tensor([[3, 4], [5, 6]])

    def _run(self, controls: Any, **arguments: Any) -> list[list[int]]:
        return _new(_run([[9]], controls, ids=self.ids, max_new_tokens=2, **arguments))

    def test_one_for_all(self) -> None:
        control = Says(Directive(forced=20))
        assert self._run(control) == [[20, 9], [20, 9]]
        assert control.started == [([3, 4], 2), ([5, 6], 2)]

    def test_one_per_prompt(self) -> None:
        assert self._run([None, Says(Directive(forced=20))]) == [[9, 9], [20, 9]]

    def test_several_for_one_row(self) -> None:
        both = [Says(Directive(forced=20)), Says(Directive(forced=30), Directive(forced=31))]
        assert self._run([both, []]) == [[20, 31], [9, 9]]

    def test_num_return_sequences(self) -> None:
        how = {"num_return_sequences": 2, "do_sample": True, "top_k": 1}
        assert self._run([Says(Directive(forced=20)), None], **how) == [[20, 9], [20, 9], [9, 9], [9, 9]]

    def test_prompts_come_without_padding(self) -> None:
        control = Says()
        batch: dict[str, Any] = left_padded(4, 2)
        generate(ScriptedModel([[9]], vocab_size=160), **batch, row_controls=control, max_new_tokens=2)
        assert [len(prompt) for prompt, _ in control.started] == [4, 2]

    @pytest.mark.parametrize(
        ("controls", "message"),
        [
            (3, "row_controls is a int; it must be a RowControl"),
            ([Says()], "row_controls has 1 entries for 2 prompts"),
            ([None, 3], r"row_controls\[1\] is a int; it must be"),
            ([None, [Says(), 3]], r"row_controls\[1\]\[1\] is a int; it must be a RowControl"),
            (Says(Directive(forced=64)), "forces token 64; allowed are 0 to 63"),
        ],
    )
    def test_what_is_refused(self, controls: Any, message: str) -> None:
        with pytest.raises(InputError, match=message):
            self._run(controls)

    def test_rows_that_end_early_need_a_pad(self) -> None:
        model = ScriptedModel([[9]])
        model.generation_config.pad_token_id = model.generation_config.eos_token_id = None
        with pytest.raises(InputError, match="row_controls of 2 rows need pad_token_id"):
            generate(model, self.ids, row_controls=Says(), max_new_tokens=2)
        generate(model, self.ids[:1], row_controls=Says(), max_new_tokens=2)
        generate(model, self.ids, row_controls=[None, None], max_new_tokens=2)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> SeedOssTokenizer:
    return SeedOssTokenizer.from_pretrained(write_tiny_tokenizer(tmp_path_factory.mktemp("tokenizer")))


class TestStopStrings:
    """The answer is `one two three two`, one token per directive."""

    def _run(self, tokenizer: SeedOssTokenizer, held: int, strings: list[str]) -> Any:
        script = [*tokenizer.encode("one two three two", add_special_tokens=False), EOS]
        texts = [tokenizer.decode(script[: n + 1]) for n in range(len(script))]
        num_held = next(n for n, text in enumerate(texts) if len(text) >= held) + 1 if held else 0
        model = ScriptedModel([script], vocab_size=512)
        control = Says(*[Directive(text_may_end=False)] * num_held)
        how = {"max_new_tokens": 40, "stop_strings": strings, "tokenizer": tokenizer, "return_dict_in_generate": True}
        result = generate(model, IDS, row_controls=control, **how)
        assert isinstance(result, GenerateDecoderOnlyOutput)
        return tokenizer.decode(result.sequences[0, 2:].tolist()), result.finish_reasons

    def test_they_count(self, tokenizer: SeedOssTokenizer) -> None:
        assert self._run(tokenizer, 0, ["two"]) == ("one two", ["stop_string"])

    def test_they_do_not_while_held(self, tokenizer: SeedOssTokenizer) -> None:
        assert self._run(tokenizer, len("one two"), ["two"]) == ("one two three two", ["stop_string"])

    def test_nor_do_those_that_began_before(self, tokenizer: SeedOssTokenizer) -> None:
        text, reasons = self._run(tokenizer, len("one two"), ["two three"])
        assert (text, reasons) == ("one two three two<seed:eos>", ["eos"])

    @pytest.mark.parametrize(("strings", "text"), [(["o"], "\n\no"), (["\n"], "\n\none\n"), (["\n\no", "\n\n"], None)])
    def test_they_count_from_the_first_character_of_an_answer(
        self, tokenizer: SeedOssTokenizer, strings: list[str], text: str | None
    ) -> None:
        parts = [*tokenizer.encode("\n\n", add_special_tokens=False)], [*"one\n"]
        script = [*parts[0], *(tokenizer.encode(char, add_special_tokens=False)[0] for char in parts[1]), EOS]
        control = Says(*[Directive(text_starts=True)] * (len(parts[0]) + 1))
        how = {"max_new_tokens": 40, "stop_strings": strings, "tokenizer": tokenizer}
        result = generate(ScriptedModel([script], vocab_size=512), IDS, row_controls=control, **how)
        assert isinstance(result, torch.Tensor)
        assert tokenizer.decode(result[0, 2:].tolist()) == (text or "\n\none\n<seed:eos>")

    def test_nor_what_stands_around_held_text(self, tokenizer: SeedOssTokenizer) -> None:
        parts = [tokenizer.encode(part, add_special_tokens=False) for part in ("one", " three", " two")]
        held = [FREE] * len(parts[0]) + [Directive(text_may_end=False)] * len(parts[1])
        model = ScriptedModel([[*parts[0], *parts[1], *parts[2], EOS]], vocab_size=512)
        how = {"max_new_tokens": 40, "stop_strings": "one two", "tokenizer": tokenizer}
        result = generate(model, IDS, row_controls=Says(*held), **how)
        assert isinstance(result, torch.Tensor)
        assert result[0, -1] == EOS


class TestReasons:
    def test_of_each_row(self) -> None:
        result = _run([[9, EOS], [8]], None, ids=IDS.repeat(2, 1))
        assert result.finish_reasons == ["eos", "length"]
        assert result.forced is None

    def test_own_criteria_and_time(self) -> None:
        result = _run([[9]], None, stopping_criteria=[lambda ids, scores: ids.shape[1] > 3])
        assert result.finish_reasons == ["criteria"]
        assert _run([[9]], None, max_time=1e-9).finish_reasons == ["time"]

    def test_nothing_is_read_for_them(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model = ScriptedModel([[9]])
        model.generation_config.eos_token_id = None
        monkeypatch.setattr("seed_oss.generation.row_watch.RowWatch._read", lambda *_: pytest.fail("tokens were read"))
        result = generate(model, IDS, max_new_tokens=3, return_dict_in_generate=True)
        assert isinstance(result, GenerateDecoderOnlyOutput)
        assert result.finish_reasons == ["length"]


class TestLogProbs:
    how: dict[str, Any] = {"max_new_tokens": 6, "return_dict_in_generate": True, "output_logprobs": True}  # noqa: RUF012

    @pytest.mark.parametrize("more", [{}, {"do_sample": True, "seed": 1, "temperature": 2.0, "top_k": 5}])
    def test_they_are_the_models_own(self, more: dict[str, Any]) -> None:
        model, _ = models()
        control = Says(FREE, Directive(forced=7), Directive(banned=frozenset({1, 5})))
        result = model.generate(
            **left_padded(5, 3), row_controls=control, output_logits=True, top_logprobs=3, **self.how, **more
        )
        expected = torch.stack(result.logits, dim=1).log_softmax(-1)
        new = result.sequences[:, 5:]
        assert torch.equal(result.forced, torch.tensor([[False, True, False, False, False, False]] * 2))
        assert (new[:, 1] == 7).all()
        torch.testing.assert_close(result.logprobs, expected.gather(2, new[..., None])[..., 0])
        best = expected.topk(3, dim=-1)
        assert torch.equal(result.top_logprob_ids, best.indices)
        torch.testing.assert_close(result.top_logprobs, best.values)

    def test_nothing_after_the_end_of_a_row(self) -> None:
        result = _run([[9, EOS], [8]], None, ids=IDS.repeat(2, 1), output_logprobs=True, top_logprobs=2)
        assert (result.logprobs != 0).tolist() == [[True, True, False, False, False], [True] * 5]
        assert (result.top_logprobs != 0).all(-1).tolist() == [[True, True, False, False, False], [True] * 5]

    def test_more_than_there_are(self) -> None:
        assert _run([[9]], None, output_logprobs=True, top_logprobs=100).top_logprobs.shape == (1, 5, 64)

    def test_only_what_was_asked_for(self) -> None:
        assert _run([[9]], None, output_logprobs=True).top_logprobs is None
        assert _run([[9]], None).logprobs is None
        with pytest.raises(ConfigError, match="top_logprobs is 2; it must be 0 unless output_logprobs"):
            _run([[9]], None, top_logprobs=2)
