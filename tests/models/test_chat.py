"""model.chat: prompt, budget, generation and parser together."""

import gc
import subprocess
import sys
import threading
from typing import Any

import pytest
import torch

from seed_oss import GenerationConfig, SeedOssForCausalLM, SeedOssTokenizer
from seed_oss.chat.budget import BUDGET_SPENT, ThinkingBudget
from seed_oss.chat.events import ContentDelta, ReasoningDelta, ThinkClosed
from seed_oss.errors import InputError, TemplateError, TokenizerError
from seed_oss.generation.loop_guard import LoopGuard
from seed_oss.generation.stopping import StoppingCriteria
from seed_oss.models.chat import chat, prepare_turn
from tests.chat.tokenizer_factory import metaspace_backend
from tests.factory import tiny_config, tiny_model
from tests.scripted_model import ScriptedModel
from tests.seed_tokenizer import seed_tokenizer

ASK = [{"role": "user", "content": "What is 2 + 2?"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}},
    },
}
CALL = (
    "<seed:tool_call>\n<function=get_weather>\n<parameter=city>Paris</parameter>\n<parameter=days>3</parameter>\n"
    "</function>\n</seed:tool_call>"
)


LEAVES = """
from seed_oss import SeedOssForCausalLM
from tests.factory import tiny_model
from tests.seed_tokenizer import seed_tokenizer

tokenizer = seed_tokenizer()
model = tiny_model(
    SeedOssForCausalLM, vocab_size=len(tokenizer), hidden_size=512, num_hidden_layers=8, max_position_embeddings=1 << 20
)
ask = [{"role": "user", "content": "What is 2 + 2?"}]
settings = {"max_new_tokens": 100_000, "eos_token_id": 0, "stream": True}
for event in model.chat(tokenizer, ask, **settings):
    break
held = model.chat(tokenizer, ask, **settings)
next(held)
print("over")
"""


def says(text: str) -> Any:
    """A model that wants to say a text in which markers are control tokens."""
    ids = seed_tokenizer()(text, add_special_tokens=False)["input_ids"]
    return ScriptedModel(ids, len(seed_tokenizer()))


class Steps(StoppingCriteria):
    """Counts the steps of a generation, and stops none."""

    count = 0

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> bool:
        self.count += 1
        return False


def ask(model: Any, messages: Any = ASK, **arguments: Any) -> Any:

    return chat(model, seed_tokenizer(), messages, **{"max_new_tokens": 2000, **arguments})


def test_a_whole_answer() -> None:
    message = ask(says("<seed:think>Two and two.</seed:think>\nFour.<seed:eos>"))
    assert (message.reasoning, message.content, message.ended) == ("Two and two.", "Four.", True)


def test_events_as_they_come() -> None:
    stream = ask(says("<seed:think>Two.</seed:think>\nFour.<seed:eos>"), stream=True)
    events = list(stream)
    assert "".join(event.text for event in events if isinstance(event, ReasoningDelta)) == "Two."
    assert "".join(event.text for event in events if isinstance(event, ContentDelta)) == "\nFour."
    assert any(isinstance(event, ThinkClosed) for event in events)
    assert stream.finish_reason == "eos"
    num_prompt = prepare_turn(seed_tokenizer(), ASK).input_ids.shape[1]
    assert stream.usage.prompt_tokens == num_prompt
    assert stream.usage.completion_tokens == len(stream.new_ids)
    assert stream.usage.reasoning_tokens == len(seed_tokenizer()("Two.", add_special_tokens=False)["input_ids"])


@pytest.mark.parametrize("mode", ["both", "hard"])
def test_the_budget_holds(mode: Any) -> None:
    budget = ThinkingBudget(64, mode)
    model = says("<seed:think>" + "so on " * 400 + "</seed:think>\nFour.<seed:eos>")
    stream = ask(model, thinking_budget=budget, stream=True)
    list(stream)
    assert stream.usage.reasoning_tokens <= 64 + budget.grace
    assert BUDGET_SPENT in stream.message.reasoning
    assert stream.message.content
    assert stream.message.reflections[-1].remaining == 0


def test_budgets_in_the_prompt() -> None:
    tokenizer = seed_tokenizer()
    plain = prepare_turn(tokenizer, ASK).input_ids[0].tolist()
    hard = prepare_turn(tokenizer, ASK, thinking_budget=ThinkingBudget(512, "hard")).input_ids[0].tolist()
    soft = tokenizer.decode(prepare_turn(tokenizer, ASK, thinking_budget=512).input_ids[0])
    assert hard == plain
    assert "the thinking budget, which is 512" in soft
    none = tokenizer.decode(prepare_turn(tokenizer, ASK, thinking_budget=ThinkingBudget(0, "hard")).input_ids[0])
    assert none.startswith(tokenizer.decode(plain))
    assert none.endswith("</seed:cot_budget_reflect>\n</seed:think>")
    both = tokenizer.decode(prepare_turn(tokenizer, ASK, thinking_budget=0).input_ids[0])
    assert both.count("The current thinking budget is 0") == 1


def test_no_budget_is_no_thinking_and_never_an_empty_answer() -> None:
    message = ask(says("<seed:eos>" * 3 + "\nFour.<seed:eos>"), thinking_budget=0)
    assert (message.reasoning, message.content) == ("", "Four.")


def test_tool_calls() -> None:
    message = ask(says(f"<seed:think>Look.</seed:think>\n{CALL}<seed:eos>"), tools=[WEATHER])
    (call,) = message.tool_calls
    assert (call.name, call.parsed_arguments()) == ("get_weather", {"city": "Paris", "days": 3})
    assert message.finish_reason == "tool_calls"


def test_calls_inside_thinking_are_thoughts() -> None:
    message = ask(says(f"<seed:think>{CALL}</seed:think>\nNo.<seed:eos>"), tools=[WEATHER])
    assert message.tool_calls == ()
    assert "get_weather" in message.reasoning
    assert message.content == "No."


def test_a_loop_is_ended() -> None:
    stream = ask(says("over and " * 2000), loop_guard=LoopGuard(), stream=True)
    list(stream)
    assert stream.finish_reason == "loop"
    assert len(stream.new_ids) < 1000


def test_closing_a_stream_stops_the_model() -> None:
    with ask(says("<seed:think>" + "so on " * 10_000), max_new_tokens=100_000, stream=True) as stream:
        next(stream)
    list(stream)
    assert stream.finish_reason == "criteria"
    assert len(stream.new_ids) < 60_000


def test_dropping_a_stream_stops_the_model() -> None:
    steps = Steps()
    settings = {"max_new_tokens": 100_000, "stopping_criteria": [steps], "stream": True}
    stream = ask(says("<seed:think>" + "so on " * 10_000), **settings)
    next(stream)
    (thread,) = [one for one in threading.enumerate() if one.name == "seed-oss-chat"]
    del stream
    gc.collect()
    thread.join()
    assert steps.count < 60_000


def test_a_process_may_end_while_answers_are_generated() -> None:
    """One stream is dropped by `break`, one is still held."""
    ended = subprocess.run([sys.executable, "-c", LEAVES], capture_output=True, text=True, timeout=300, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "over\n", "")


def test_an_error_is_raised_where_events_are_read() -> None:
    model = says("a")
    model.config.vocab_size = 5
    with pytest.raises(InputError, match="vocabulary"):
        ask(model)


def test_a_real_model_on_tiny_weights() -> None:
    model = tiny_model(SeedOssForCausalLM, vocab_size=len(seed_tokenizer()), max_position_embeddings=4096)
    assert model.config.hidden_size == tiny_config().hidden_size
    torch.manual_seed(0)
    for budget in (None, 0, 8):
        stream = model.chat(
            seed_tokenizer(), ASK, thinking_budget=budget, stream=True, max_new_tokens=200, do_sample=True, seed=1
        )
        list(stream)
        assert stream.usage.reasoning_tokens <= (10**9 if budget is None else budget + 1)
        assert len(stream.new_ids) <= 200


@pytest.mark.parametrize(
    "arguments",
    [
        {"thinking_budget": "much"},
        {"max_new_tokens": 0},
        {"max_new_tokens": 2.5},
        {"num_return_sequences": 2, "do_sample": True},
        {"num_beams": 2},
        {"num_beams": True},
        {"loop_guard": True},
        {"row_controls": 5},
        {"row_controls": [None]},
        {"streamer": print},
        {"return_dict_in_generate": True},
        {"input_ids": torch.zeros(1, 3, dtype=torch.int64)},
        {"template_variables": "x"},
        {"template_variables": {1: 2}},
        {"messages": [ASK, ASK]},
    ],
)
def test_wrong_arguments(arguments: dict[str, Any]) -> None:
    for stream in (False, True):
        with pytest.raises(InputError, match=next(iter(arguments))):
            ask(says("a"), **arguments, stream=stream)


def test_one_answer_whatever_the_settings_say() -> None:
    with pytest.raises(InputError, match="num_return_sequences is 2"):
        ask(says("a"), generation_config=GenerationConfig(num_return_sequences=2, do_sample=True))
    model = says("Four.<seed:eos>")
    model.generation_config.update(num_return_sequences=2, do_sample=True, top_k=1)
    assert ask(model).content == "Four."
    assert ask(says("Four.<seed:eos>"), streamer=None, return_dict_in_generate=False, num_beams=1).content == "Four."


@pytest.mark.parametrize("messages", [None, 5, "hello", []])
def test_messages_that_are_none(messages: Any) -> None:
    with pytest.raises(TemplateError, match="a conversation is a list of at least one message"):
        ask(says("a"), messages)


NO_VARIABLES = (
    "sanitize_control_tokens",
    "chat_template",
    "tokenize",
    "return_dict",
    "tools",
    "thinking_budget",
    "messages",
)


@pytest.mark.parametrize("name", NO_VARIABLES)
def test_variables_of_the_template_are_no_arguments(name: str) -> None:
    with pytest.raises(InputError, match=f"template_variables has '{name}', which is no variable"):
        ask(says("a"), template_variables={name: False})


def test_variables_of_the_template() -> None:
    shown = [
        ask(says("a"), tools=[WEATHER], template_variables=given, max_new_tokens=1, stream=True).turn
        for given in (None, {"use_json_tooldef": True})
    ]
    plain, as_json = (seed_tokenizer().decode(turn.input_ids[0]) for turn in shown)
    assert "def get_weather(" in plain
    assert '"name": "get_weather"' in as_json


@pytest.mark.parametrize(
    ("given", "instead"),
    [
        ({"enable_thinking": False}, 0),
        ({"thinking": {"type": "disabled"}}, 0),
        ({"reasoning_effort": "low"}, 1024),
        ({"extra_body": {"thinking_token_budget": 7}}, 7),
        ({"enable_thinking": True}, None),
    ],
)
def test_other_spellings_of_the_budget_are_told_the_one(given: dict[str, Any], instead: int | None) -> None:
    with pytest.raises(InputError, match=f"the same as an argument of chat.. is thinking_budget={instead}"):
        ask(says("a"), **given)


def test_thinking_whose_start_is_left_out_counts() -> None:
    stream = ask(says("Two and two.</seed:think>\nFour.<seed:eos>"), stream=True)
    list(stream)
    assert (stream.message.reasoning, stream.message.content) == ("Two and two.", "Four.")
    assert stream.usage.reasoning_tokens == len(seed_tokenizer()("Two and two.", add_special_tokens=False)["input_ids"])


def test_a_budget_for_a_model_that_does_not_think() -> None:
    tokenizer = SeedOssTokenizer(metaspace_backend(), chat_template="{{ messages[0].content }}")
    model = ScriptedModel([5], len(tokenizer))
    with pytest.raises(TokenizerError, match="does not think"):
        chat(model, tokenizer, ASK, thinking_budget=512)
