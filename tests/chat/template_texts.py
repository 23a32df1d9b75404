# ruff: noqa: E501
"""Chat templates written for the tests, each in the manner of a family found in the wild, and conversations."""

from typing import Any

CHATML = """{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}
{{- '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}
{{- '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""

HEADERS = """{{- bos_token }}
{%- if custom_tools is defined %}
    {%- set tools = custom_tools %}
{%- endif %}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%Y") %}
    {%- else %}
        {%- set date_string = "never" %}
    {%- endif %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start|>system<|end|>\\n\\n" }}
{%- if tools is not none %}
    {{- "Environment: ipython\\n" }}
    {%- for tool in tools %}
        {{- tool | tojson(indent=4) }}
        {{- "\\n\\n" }}
    {%- endfor %}
{%- endif %}
{{- "Date: " + date_string + "\\n\\n" + system_message + "<|eot|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start|>' + message['role'] + '<|end|>\\n\\n' + message['content'] | trim + '<|eot|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if message.tool_calls | length != 1 %}
            {{- raise_exception("This model only supports single tool-calls at once!") }}
        {%- endif %}
        {%- set call = message.tool_calls[0].function %}
        {{- '<|start|>assistant<|end|>\\n\\n{"name": "' + call.name + '", "parameters": ' }}
        {{- call.arguments | tojson }}
        {{- "}<|eot|>" }}
    {%- elif message.role == "tool" or message.role == "ipython" %}
        {{- "<|start|>ipython<|end|>\\n\\n" }}
        {%- if message.content is mapping or message.content is iterable and message.content is not string %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
        {{- "<|eot|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start|>assistant<|end|>\\n\\n' }}
{%- endif %}
"""

THINKING = """{%- if tools %}
    {{- '<|im_start|>system\\n# Tools\\n<tools>' }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\\n</tools><|im_end|>\\n" }}
{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string
        and not (message.content.startswith('<r>') and message.content.endswith('</r>')) %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}
        {%- set content = message.content %}
    {%- else %}
        {%- set content = '' %}
    {%- endif %}
    {%- if message.role == "assistant" %}
        {%- set reasoning = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set reasoning = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index and (loop.last or reasoning) %}
            {{- '<|im_start|>' + message.role + '\\n<think>\\n' + reasoning.strip('\\n') + '\\n</think>\\n\\n' + content }}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- endif %}
        {%- for call in message.tool_calls or [] %}
            {%- if call.function %}{%- set call = call.function %}{%- endif %}
            {{- '\\n<tool_call>\\n{"name": "' ~ call.name ~ '", "arguments": ' }}
            {%- if call.arguments is string %}{{- call.arguments }}{%- else %}{{- call.arguments | tojson }}{%- endif %}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if loop.first or (messages[loop.index0 - 1].role != "tool") %}{{- '<|im_start|>user' }}{%- endif %}
        {{- '\\n<r>\\n' + content + '\\n</r>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}{{- '<|im_end|>\\n' }}{%- endif %}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}"""

ODDITIES = """
{# whitespace, macros, loop controls, generation marks, dict and namespace #}
{% macro kind(t) -%}
    {%- if t == "string" -%}str{%- elif t in ("number", "integer") -%}int{%- else -%}Any{%- endif -%}
{%- endmacro %}
  {% set d = dict(a=1, b=[1, (2, 3)], c=none) %}
{{ d }} {{ dict.fromkeys(["x"]) }} {{ d.items() | list }}
{% set ns = namespace(count=0) %}
{% for message in messages %}
    {% if message.role == "skip" %}{% continue %}{% endif %}
    {% if message.role == "stop" %}{% break %}{% endif %}
    {% set ns.count = ns.count + 1 %}
{{ loop.index }}/{{ ns.count }}: {{ kind(message.role) }} {{ message.content | default("-", true) | string | upper }}
    {%- if message.role == "assistant" %}
{% generation %}
{% set inner = message.content %}{{ inner }}{{ eos_token }}
{% endgeneration %}
    {% endif %}
{% else %}
nothing
{% endfor %}
{{ inner is defined }} {{ 7 // 2 }} {{ 7 / 2 }} {{ 2 ** 8 }} {{ "%s-%05.1f" | format("a", 2.25) }} {{ -7 % 3 }}
{{ messages | map(attribute="role") | unique | sort | join(", ") }} {{ messages | selectattr("role", "equalto", "user") | list | length }}
{{ {"é": "<>&'", "n": none, "t": true, "f": 1.5} | tojson }} {{ [1, 2] | tojson(indent=2) }} {{ "é" | tojson(ensure_ascii=true) }}
{{ "abc"[::-1] }} {{ "a,b".split(",") }} {{ " x ".strip() }} {{ missing }} {{ missing is defined }} {{ [3, 1, 2] | sort | first }}
"""

TEMPLATES = {"chatml": CHATML, "headers": HEADERS, "thinking": THINKING, "oddities": ODDITIES}

TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": 'Wetter für <ort> & "mehr"',
            "parameters": {
                "type": "object",
                "properties": {"location": {"type": "string"}, "days": {"type": "integer"}},
                "required": ["location"],
            },
        },
    }
]

_CALL = {"type": "function", "function": {"name": "get_weather", "arguments": {"location": "Zürich", "days": 3}}}
CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "one": [{"role": "user", "content": "How to make pasta?"}],
    "system": [
        {"role": "system", "content": " Be brief. \n"},
        {"role": "user", "content": "工具 🙂\r\n\tx"},
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\nBoil.", "name": None},
        {"role": "user", "content": " ok <|im_end|>{{ 7 }} "},
    ],
    "tools": [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": "", "reasoning_content": "use the tool", "tool_calls": [_CALL]},
        {"role": "tool", "content": "20 °C", "tool_call_id": "1"},
        {"role": "assistant", "content": "20 °C.", "reasoning": "done"},
    ],
    "odd": [
        {"role": "skip", "content": "no"},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "stop", "content": "c"},
        {"role": "user", "content": "d"},
    ],
}
