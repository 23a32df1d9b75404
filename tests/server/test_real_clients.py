"""`seed-oss serve` with a real engine, asked by the clients that people use: parsed answers, calls, and an adapter.

The model is tiny and its weights are random: what it says has the form that was asked for, and no sense.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import anthropic
import openai
import pytest
import torch
from pydantic import BaseModel, Field

from seed_oss import AutoModelForCausalLM, SeedOssForCausalLM, SeedOssTokenizer
from tests.chat.tokenizer_factory import VOCAB_SIZE, write_tiny_tokenizer
from tests.engine.processes import environment
from tests.factory import tiny_checkpoint
from tests.lora import saved
from tests.seed_tokenizer import SEED_TEMPLATE, seed_tokenizer
from tests.server.test_serve import Server

ASK: list[Any] = [{"role": "user", "content": "How high?"}]
BLANKS = [one for one in range(9, VOCAB_SIZE) if not seed_tokenizer().decode([one]).strip()]
QUICK: dict[str, Any] = {"temperature": 0, "thinking_budget": 0, "logit_bias": dict.fromkeys(map(str, BLANKS), -100)}
FEW: dict[str, Any] = {"max_tokens": 160, "extra_body": QUICK}
PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {"height": {"type": "integer", "minimum": 0, "maximum": 9}, "place": {"enum": ["roof", "tree"]}},
    "required": ["height", "place"],
    "additionalProperties": False,
}
TOOLS: list[Any] = [{"type": "function", "function": {"name": "fly", "parameters": PARAMETERS}}]
PROMPT = list(range(20, 60))


class Flight(BaseModel):
    """What an answer is parsed as."""

    place: Annotated[str, Field(max_length=8)]
    is_high: bool


class Height(BaseModel):
    """The same for Anthropic's client, which leaves bounds out of the schemas that it sends."""

    place: Literal["roof", "tree"]
    is_high: bool


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose tokenizer has the control tokens, with an adapter beside it."""
    folder = tmp_path_factory.mktemp("tiny")
    tiny_checkpoint(folder / "model", SeedOssForCausalLM, vocab_size=VOCAB_SIZE, max_position_embeddings=4096)
    write_tiny_tokenizer(folder / "model", chat_template=SEED_TEMPLATE)
    saved(folder / "one", 1, AutoModelForCausalLM.from_pretrained(folder / "model"))
    return folder


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    """The address of a server."""
    program = [sys.executable, "-m", "seed_oss", "serve", str(folder / "model"), "--port", "0", "--threads", "1"]
    options = ["--served-model-name", "tiny", "--dtype", "float32", "--lora", f"one={folder / 'one'}"]
    with subprocess.Popen([*program, *options], stderr=subprocess.PIPE, text=True, env=environment()) as process:
        server = Server(process)
        try:
            port = server.event("listening")["port"]
            server.event("ready")
            yield f"http://127.0.0.1:{port}"
            server.signal()
            assert server.exit_code() == 0
        finally:
            process.kill()


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0) as made:
        yield made


@pytest.fixture(scope="module")
def claude(url: str) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=url, api_key="unused", max_retries=0) as made:
        yield made


def check(arguments: Any) -> None:
    assert arguments.keys() == {"height", "place"}
    assert arguments["height"] in range(10)
    assert arguments["place"] in ("roof", "tree")


def test_an_answer_is_parsed(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "tiny", "messages": ASK, "response_format": Flight, **FEW}
    answer = client.chat.completions.parse(**asked)
    assert isinstance(answer.choices[0].message.parsed, Flight)
    with client.chat.completions.stream(**asked) as stream:
        assert stream.get_final_completion().choices[0].message.parsed == answer.choices[0].message.parsed


def test_a_response_is_parsed(client: openai.OpenAI) -> None:
    got = client.responses.parse(
        model="tiny", input="How high?", text_format=Flight, max_output_tokens=160, extra_body=QUICK
    )
    assert isinstance(got.output_parsed, Flight)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "fly"}}])
def test_a_call_is_required(client: openai.OpenAI, choice: Any) -> None:
    asked: dict[str, Any] = {"model": "tiny", "messages": ASK, "tools": TOOLS, "tool_choice": choice, **FEW}
    asked |= {"parallel_tool_calls": False}
    (whole,) = client.chat.completions.create(**asked).choices
    with client.chat.completions.stream(**asked) as stream:
        (streamed,) = stream.get_final_completion().choices
    for one in (whole, streamed):
        assert one.finish_reason == "tool_calls"
        assert one.message.tool_calls
        (call,) = one.message.tool_calls
        assert call.type == "function"
        assert call.function.name == "fly"
        check(json.loads(call.function.arguments))
    assert whole.message.tool_calls
    assert streamed.message.tool_calls
    assert streamed.message.tool_calls[0].function.arguments == whole.message.tool_calls[0].function.arguments  # type: ignore[union-attr]


def test_a_call_goes_back_with_its_result(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "tiny", "tools": TOOLS, **FEW}
    message = client.chat.completions.create(messages=ASK, tool_choice="required", **asked).choices[0].message
    calls = message.tool_calls or []
    assert calls
    history: list[Any] = [
        *ASK,
        message,
        *({"role": "tool", "tool_call_id": call.id, "content": "done"} for call in calls),
    ]
    answer = client.chat.completions.create(messages=history, **asked)
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 0


def test_a_call_that_is_cut_off(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "tiny", "messages": ASK, "tools": TOOLS, "tool_choice": "required"}
    asked["extra_body"] = QUICK
    cut = 0
    for limit in range(8, 60, 6):
        (whole,) = client.chat.completions.create(**asked, max_tokens=limit).choices
        with client.chat.completions.create(**asked, max_tokens=limit, stream=True) as stream:
            chunks = [one.choices[0] for one in stream]
        calls = [call for one in chunks for call in one.delta.tool_calls or () if call.function]
        assert chunks[-1].finish_reason == whole.finish_reason
        written = "".join(call.function.arguments or "" for call in calls if call.function)
        assert written == "".join(call.function.arguments for call in whole.message.tool_calls or ())  # type: ignore[union-attr]
        cut += bool(calls) and whole.finish_reason == "length"
    assert cut


def test_a_tool_of_a_message_is_used(claude: anthropic.Anthropic) -> None:
    tools: list[Any] = [{"name": "fly", "input_schema": PARAMETERS}]
    choice: Any = {"type": "any", "disable_parallel_tool_use": True}
    asked: dict[str, Any] = {"model": "tiny", "messages": ASK, "tools": tools, "tool_choice": choice, "max_tokens": 120}
    asked["extra_body"] = QUICK
    whole = claude.messages.create(**asked)
    with claude.messages.stream(**asked) as stream:
        streamed = stream.get_final_message()
    for message in (whole, streamed):
        assert message.stop_reason == "tool_use"
        block = message.content[-1]
        assert block.type == "tool_use"
        assert block.name == "fly"
        check(block.input)
    assert whole.content[-1].input == streamed.content[-1].input  # type: ignore[union-attr]


def test_a_message_is_parsed(claude: anthropic.Anthropic) -> None:
    asked: dict[str, Any] = {"model": "tiny", "messages": ASK, "max_tokens": 120, "output_format": Height}
    asked["extra_body"] = QUICK
    assert isinstance(claude.messages.parse(**asked).parsed_output, Height)


def test_an_adapter_answers_by_its_name(client: openai.OpenAI, folder: Path) -> None:
    tokenizer = SeedOssTokenizer.from_pretrained(folder / "model")
    said: dict[str, str] = {}
    for name in ("tiny", "one"):
        model: Any = AutoModelForCausalLM.from_pretrained(folder / "model")
        if name == "one":
            _, model = saved(folder / "again", 1, model)
        made = model.generate(input_ids=torch.tensor([PROMPT]), max_new_tokens=12, do_sample=False)
        got = client.completions.create(model=name, prompt=PROMPT, max_tokens=12, temperature=0)
        said[name] = got.choices[0].text
        assert said[name] == tokenizer.decode(made[0, len(PROMPT) :].tolist(), skip_special_tokens=True)
        chat = client.chat.completions.create(model=name, messages=ASK, max_tokens=4)
        assert chat.model == name
    assert said["tiny"] != said["one"]
    assert {one.id for one in client.models.list()} == {"tiny", "one"}
