"""A small tokenizer with the control tokens of Seed-OSS and a chat template that renders as the released ones do."""

from functools import lru_cache

from tokenizers import Tokenizer

from seed_oss.chat import SeedOssTokenizer
from tests.chat.tokenizer_factory import VOCAB_SIZE, tiny_backend

# Written for the tests; the released files are not part of the project. Neither of their hashes fits this text, so that
# it is recognised by what it renders.
_TEMPLATE = r"""
{%- set quotes = '"' * 3 -%}
{%- set budget = thinking_budget if thinking_budget is defined else -1 -%}
{%- set kinds = {"string": "str", "number": "int", "integer": "int", "boolean": "bool", "array": "list"} -%}
{%- macro kind(spec) -%}
    {{- kinds.get(spec.type, "Any") if spec.type is string else "Any" -}}
{%- endmacro -%}
{%- macro reasoning(message) -%}
    {%- if message.reasoning_content is string and message.reasoning_content.strip() -%}
        {{- "\n<seed:think>" ~ message.reasoning_content.strip() ~ "</seed:think>" -}}
    {%- endif -%}
{%- endmacro -%}
{%- set tools = tools or [] -%}
{%- set has_system = messages[0].role == "system" -%}
{%- if has_system -%}
    {{- "<seed:bos>system\n" + messages[0].content -}}
{%- elif tools -%}
    {{- "<seed:bos>system\nYou are Doubao, a helpful AI assistant. " -}}
    {{- "You may call one or more functions to assist with the user query." -}}
{%- endif -%}
{%- if use_json_tooldef -%}
    {{- "\nTool List:\nYou are authorized to use the following tools (described in JSON Schema format). " -}}
    {{- "Before performing any task, you must decide how to call them based on the descriptions and parameters " -}}
    {{- "of these tools.\n" ~ (tools | tojson(ensure_ascii=False)) -}}
{%- else -%}
    {%- for tool in tools if tool.type == "function" -%}
        {%- set function = tool.function -%}
        {%- set properties = function.parameters.properties -%}
        {{- "\n\nFunction:\ndef " ~ function.name ~ "(" -}}
        {%- for name, spec in properties.items() -%}
            {{- "," if not loop.first -}}{{- name ~ ": " ~ kind(spec) -}}
        {%- endfor -%}
        {{- "):\n    " ~ quotes ~ "\n    " ~ (function.description | trim) ~ "\n\n" -}}
        {%- if properties -%}
            {{- "    Args:" -}}
            {%- for name, spec in properties.items() -%}
                {{- "\n    - " ~ name ~ " (" ~ kind(spec) ~ ") " -}}
                {{- "[必填]: " if name in (function.parameters.required or []) else "[选填]: " -}}
                {{- spec.description or "" -}}
            {%- endfor -%}
        {%- endif -%}
        {%- set returns = (function.returns or {}).properties -%}
        {%- if returns -%}
            {{- "\n    Returns:" -}}
            {%- for name, spec in returns.items() -%}
                {{- "\n    - " ~ name ~ " (" ~ kind(spec) ~ "): " ~ (spec.description or "") -}}
            {%- endfor -%}
            {{- "\n    " ~ quotes -}}
        {%- else -%}
            {{- "\n\n    " ~ quotes -}}
        {%- endif -%}
    {%- endfor -%}
{%- endif -%}
{%- if tools -%}
    {{- "\n工具调用请遵循如下格式:\n<seed:tool_call>\n<function=example_function_name>\n" -}}
    {{- "<parameter=example_parameter_1>value_1</parameter>\n<parameter=example_parameter_2>" -}}
    {{- "This is the value for the second parameter\nthat can span\nmultiple lines</parameter>\n" -}}
    {{- "</function>\n</seed:tool_call>\n" -}}
{%- endif -%}
{{- "<seed:eos>" if has_system or tools -}}
{%- if budget == 0 -%}
    {{- "<seed:bos>system\nYou are an intelligent assistant that can answer questions in one step without " -}}
    {{- "the need for reasoning and thinking, that is, your thinking budget is 0. Next, please skip the thinking " -}}
    {{- "process and directly start answering the user's questions.\n<seed:eos>" -}}
{%- elif budget != -1 -%}
    {%- set every = 0 if budget < 0 else 128 if budget <= 512 else 256 if budget <= 1024 else 512 if budget <= 4096
        else 1024 -%}
    {{- "<seed:bos>system\nYou are an intelligent assistant with reflective ability. In the process of thinking " -}}
    {{- "and reasoning, you need to strictly follow the thinking budget, which is " ~ budget -}}
    {{- ". That is, you need to complete your thinking within " ~ budget ~ " tokens " -}}
    {{- "and start answering the user's questions. You will " -}}
    {{- "reflect on your thinking process every " ~ every ~ " tokens, stating how many tokens have been used and " -}}
    {{- "how many are left.\n<seed:eos>" -}}
{%- endif -%}
{%- for message in (messages[1:] if has_system else messages) -%}
    {%- if message.role != "assistant" -%}
        {{- "<seed:bos>" + message.role + "\n" + message.content + "<seed:eos>" -}}
    {%- elif message.tool_calls -%}
        {{- "<seed:bos>assistant" ~ reasoning(message) -}}
        {%- if message.content is string and message.content.strip() -%}
            {{- "\n" ~ message.content.strip() ~ "\n" -}}
        {%- endif -%}
        {%- for item in message.tool_calls -%}
            {%- set call = item.function if item.function is defined else item -%}
            {{- "\n<seed:tool_call>\n<function=" + call.name + ">\n" -}}
            {%- for name, value in (call.arguments or {}).items() -%}
                {{- "<parameter=" + name + ">" ~ value ~ "</parameter>\n" -}}
            {%- endfor -%}
            {{- "</function>\n</seed:tool_call>" -}}
        {%- endfor -%}
        {{- "<seed:eos>" -}}
    {%- else -%}
        {{- "<seed:bos>assistant" ~ reasoning(message) -}}
        {%- if message.content is string and message.content.strip() -%}
            {{- "\n" ~ message.content.strip() ~ "<seed:eos>" -}}
        {%- endif -%}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- "<seed:bos>assistant\n" -}}
    {{- ZERO if budget == 0 -}}
{%- endif -%}"""
SEED_TEMPLATE = _TEMPLATE.replace(
    "ZERO",
    '"<seed:think>\\n<seed:cot_budget_reflect>The current thinking budget is 0, so I will directly start answering '
    'the question.</seed:cot_budget_reflect>\\n</seed:think>"',
)
INITIAL_SEED_TEMPLATE = _TEMPLATE.replace("ZERO", '"<seed:think><seed:cot_budget_reflect>"')


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
