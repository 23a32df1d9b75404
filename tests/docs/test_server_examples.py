"""One `seed-oss serve demo-int4`: every curl and Python example that asks a server, and the clients that people use.

The demo model is small and silly, so forms are asserted, not wits.
"""

import json
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from pydantic import BaseModel

from seed_oss.errors import SeedOssError
from seed_oss.weights import demo
from tests.docs.pages import SERVER, Block, blocks, page_name, pages
from tests.docs.test_examples import run_example
from tests.docs.test_pages import run_block

pytestmark = pytest.mark.xdist_group("server-examples")

MODEL = "demo-int4"
ASK: list[Any] = [{"role": "user", "content": "How do birds fly?"}]
FEW: dict[str, Any] = {"model": MODEL, "temperature": 0}
TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
    }
]
PATIENCE_S = 60


class Bird(BaseModel):
    """What an answer is held to."""

    name: str
    can_fly: bool


def examples(language: str) -> list[Any]:
    """The pages' blocks of one language that ask a server, as test cases of their pages."""
    return [
        pytest.param(block, page, id=f"{page_name(page)}:{block.line}")
        for page in pages()
        for block in blocks(page.read_text(encoding="utf-8"), language)
        if block.needs_server and (language != "bash" or block.text.startswith("curl "))
    ]


def at(block: Block, url: str) -> Block:
    """A block that asks the server at `url`."""
    return Block(block.language, block.text.replace(SERVER, url), block.line)


def ready_port(process: subprocess.Popen[str]) -> int:
    """Where a server listens, once it is ready; what it logs afterwards is read away."""
    assert process.stderr is not None
    port = 0
    for line in process.stderr:
        event = json.loads(line) if line.startswith("{") else {}
        port = event.get("port", port)
        if event.get("event") == "ready":
            threading.Thread(target=process.stderr.read, daemon=True).start()
            return port
    raise RuntimeError(f"the server ended with {process.wait(PATIENCE_S)}")


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The address of a server."""
    try:
        demo.packed()
    except SeedOssError as error:
        pytest.skip(str(error))
    command = [str(Path(sys.executable).parent / "seed-oss"), "serve", MODEL, "--port", "0", "--max-num-seqs", "4"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield f"http://127.0.0.1:{ready_port(process)}"
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE_S) == 0
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


def test_pages_have_examples() -> None:
    assert {param.values[1].name for param in examples("bash")} >= {"README.md", "server.md", "server-api.md"}
    assert {param.values[1].name for param in examples("python")} >= {"README.md"}


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize(("block", "page"), examples("bash"))
def test_curl(block: Block, page: Path, url: str) -> None:
    script = "set -e\ncurl() { command curl --silent --show-error --fail-with-body --noproxy '*' \"$@\"; }\n"
    text = script + at(block, url).text
    done = subprocess.run(["bash", "-c", text], capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, f"{page}: {done.stdout} {done.stderr}"
    assert done.stdout.strip()


@pytest.mark.parametrize(("block", "page"), examples("python"))
def test_python(block: Block, page: Path, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    namespace: dict[str, Any] = {"__name__": "__main__"}
    run_block(at(block, url), page, namespace)
    for value in namespace.values():
        if isinstance(value, openai.OpenAI | anthropic.Anthropic):
            value.close()
    assert capsys.readouterr().out.strip()


def test_the_example_of_a_client(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_example("openai_client.py", f"{url}/v1", tmp_path, monkeypatch)
    *text, animal = capsys.readouterr().out.splitlines()
    assert any(text)
    assert animal.startswith("name='")


def test_chat(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(messages=ASK, max_tokens=8, **FEW)
    assert answer.usage is not None
    assert answer.choices[0].finish_reason == "length"
    assert answer.choices[0].message.content
    assert answer.usage.completion_tokens == 8
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 8


def test_a_stream_says_what_the_whole_answer_says(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(messages=ASK, max_tokens=8, **FEW)
    with client.chat.completions.create(
        messages=ASK, max_tokens=8, stream=True, stream_options={"include_usage": True}, **FEW
    ) as stream:
        chunks = list(stream)
    text = "".join(one.choices[0].delta.content or "" for one in chunks if one.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-2].choices[0].finish_reason == "length"
    assert chunks[-1].usage is not None
    assert whole.usage is not None
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens


def test_tools_may_be_offered(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(messages=ASK, tools=TOOLS, max_tokens=8, **FEW)
    assert answer.choices[0].finish_reason in ("length", "stop", "tool_calls")


def test_a_call_cannot_be_required_of_a_model_without_markers(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="tool_choice"):
        client.chat.completions.create(messages=ASK, tools=TOOLS, tool_choice="required", max_tokens=8, **FEW)


def test_an_answer_is_parsed(client: openai.OpenAI) -> None:
    answer = client.chat.completions.parse(messages=ASK, response_format=Bird, max_tokens=64, **FEW)
    assert isinstance(answer.choices[0].message.parsed, Bird)


def test_completions_and_seeds(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": MODEL, "prompt": "Birds fly", "max_tokens": 6, "n": 2, "seed": 7}
    first, second = (client.completions.create(**asked) for _ in range(2))
    assert [one.text for one in first.choices] == [one.text for one in second.choices]


def test_embeddings(client: openai.OpenAI) -> None:
    found = client.embeddings.create(model=MODEL, input=["a bird", "a fish"])
    assert [sum(value * value for value in one.embedding) for one in found.data] == pytest.approx([1.0, 1.0], abs=1e-5)
    assert found.usage.total_tokens == found.usage.prompt_tokens > 0


def test_responses(client: openai.OpenAI) -> None:
    made = client.responses.create(input="How do birds fly?", max_output_tokens=8, **FEW)
    with client.responses.create(input="How do birds fly?", max_output_tokens=8, stream=True, **FEW) as stream:
        events = list(stream)
    assert events[0].type == "response.created"
    assert events[-1].type == "response.incomplete"
    assert made.output_text == events[-1].response.output_text
    assert client.responses.retrieve(made.id).output_text == made.output_text
    assert made.usage is not None
    assert made.usage.total_tokens == made.usage.input_tokens + made.usage.output_tokens


def test_messages(claude: anthropic.Anthropic) -> None:
    asked: dict[str, Any] = {"model": MODEL, "messages": ASK, "max_tokens": 8, "extra_body": {"temperature": 0}}
    message = claude.messages.create(**asked)
    with claude.messages.stream(**asked) as stream:
        text = "".join(stream.text_stream)
    (block,) = message.content
    assert block.type == "text"
    assert text == block.text
    assert message.stop_reason == "max_tokens"
    counted = claude.messages.count_tokens(model=MODEL, messages=ASK)
    assert counted.input_tokens == message.usage.input_tokens + (message.usage.cache_read_input_tokens or 0)
