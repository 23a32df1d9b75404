"""The reference pages: public names from their docstrings, the command line from its own help."""

import importlib
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

GROUPS: dict[str, tuple[str, ...]] = {
    "Models": (
        *("SeedOssModel", "SeedOssForCausalLM", "SeedOssForSequenceClassification"),
        *("SeedOssForTokenClassification", "SeedOssForQuestionAnswering", "SeedOssPreTrainedModel"),
    ),
    "Auto classes": (
        *("AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoModelForSequenceClassification"),
        *("AutoModelForTokenClassification", "AutoModelForQuestionAnswering"),
    ),
    "Configuration": ("SeedOssConfig", "GenerationConfig"),
    "Text": ("SeedOssTokenizer", "AutoTokenizer"),
    "Engine": ("LLM", "AsyncLLM", "SamplingParams"),
    "Planning": ("plan",),
    "Quantization": ("quantize_",),
    "Caches": ("DynamicCache", "QuantizedCache", "StaticCache"),
    "Generation": (
        *("TextStreamer", "TextIteratorStreamer", "LogitsProcessor", "LogitsProcessorList"),
        *("StoppingCriteria", "StoppingCriteriaList", "set_seed"),
    ),
}
FIELD_SECTIONS = ("Args", "Returns", "Raises", "Yields", "Attributes")
SECTION = re.compile(rf"^({'|'.join(FIELD_SECTIONS)}):\n((?:(?:    .*)?\n?)*)", re.MULTILINE)
ITEM = re.compile(r"^    (?P<name>[*\w][\w, *.]*(?: \([^)]*\))?): (?P<text>.*(?:\n      +.*)*)", re.MULTILINE)


def public_names() -> str:
    """Every public name with its signature, docstring and public methods, by group."""
    parts: list[str] = []
    for title, names in GROUPS.items():
        parts.append(f"## {title}")
        parts.extend(part for name in names for part in _entry(name, _public(name)))
    return "\n\n".join(parts)


def ungrouped() -> list[str]:
    """Public names that no group shows; there should be none."""
    exported = importlib.import_module("seed_oss").__all__
    return sorted(set(exported) - set(_all_names()) - {"__version__"})


def _entry(name: str, value: object) -> Iterator[str]:
    own_name = getattr(value, "__name__", name)
    yield f"### `{name}`"
    if own_name != name:
        yield f"The same class as `{own_name}`."
        return
    yield _described(value, name)
    if inspect.isclass(value):
        for method, function in _methods(value):
            yield f"#### `{name}.{method}`"
            yield _described(function, method)


def _methods(kind: type) -> Iterator[tuple[str, object]]:
    """Described public methods and properties that the class has from us, without those of a public base."""
    public = {value for value in map(_public, _all_names()) if inspect.isclass(value)}
    bases = [base for base in kind.__mro__[1:] if base in public]
    ours = [base for base in kind.__mro__ if base.__module__.startswith("seed_oss")]
    names = dict.fromkeys(
        name for base in ours for name in vars(base) if not name.startswith("_") or name == "__call__"
    )
    for name in names:
        raw = inspect.getattr_static(kind, name)
        value = getattr(raw, "__func__", raw)
        inherited = any(inspect.getattr_static(base, name, None) is raw for base in bases)
        if not inherited and inspect.getdoc(value) and (inspect.isroutine(value) or _is_property(value)):
            yield name, value


def _all_names() -> list[str]:
    return [name for names in GROUPS.values() for name in names]


def _public(name: str) -> object:
    return getattr(importlib.import_module("seed_oss"), name)


def _is_property(value: object) -> bool:
    return isinstance(value, property)


def _described(value: object, name: str) -> str:
    return "\n\n".join(part for part in (_signature(value, name), markdown(inspect.getdoc(value) or "")) if part)


def _signature(value: object, name: str) -> str:
    if isinstance(value, property) or not callable(value):
        return ""
    try:
        parameters = list(inspect.signature(value).parameters.values())
    except ValueError:
        return ""
    shown = [_shown(parameter) for parameter in parameters if parameter.name not in {"self", "cls"}]
    return f"```text\n{name}({', '.join(_with_marks(shown, parameters))})\n```"


def _shown(parameter: inspect.Parameter) -> str:
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
    default = "" if parameter.default is inspect.Parameter.empty else f"={_value(parameter.default)}"
    return f"{stars}{parameter.name}{default}"


def _value(default: object) -> str:
    simple = isinstance(default, int | float | str | bool | tuple | None)
    return repr(default) if simple else "..."


def _with_marks(shown: list[str], parameters: list[inspect.Parameter]) -> list[str]:
    """Puts the bare `*` before the first argument that is given by name only."""
    kinds = [parameter.kind for parameter in parameters if parameter.name not in {"self", "cls"}]
    if inspect.Parameter.VAR_POSITIONAL in kinds or inspect.Parameter.KEYWORD_ONLY not in kinds:
        return shown
    first = kinds.index(inspect.Parameter.KEYWORD_ONLY)
    return [*shown[:first], "*", *shown[first:]]


def markdown(docstring: str) -> str:
    """A docstring of the house's form as Markdown: its sections become lists.

    Args:
        docstring: The cleaned docstring (`inspect.getdoc`).
    """

    def section(match: re.Match[str]) -> str:
        items = [f"- `{item['name']}`: {' '.join(item['text'].split())}" for item in ITEM.finditer(match[2])]
        body = "\n".join(items) if items else " ".join(match[2].split())
        return f"**{match[1]}**\n\n{body}\n\n"

    return SECTION.sub(section, docstring + "\n").strip()


def command_line() -> str:
    """The help pages of the command and of each of its subcommands."""
    first = _help()
    names = re.findall(r"^[│ ]*([a-z]+) {2,}\S", first.split("Commands", 1)[-1], re.MULTILINE)
    pages = [f"```text\n{first}\n```"]
    pages += [f"## `seed-oss {name}`\n\n```text\n{_help(name)}\n```" for name in names]
    return "\n\n".join(pages)


def _help(*command: str) -> str:
    script = str(Path(sys.executable).parent / "seed-oss")
    plain = {"COLUMNS": "100", "TERMINAL_WIDTH": "100", "NO_COLOR": "1", "TERM": "dumb"}
    done = subprocess.run(
        [script, *command, "--help"], capture_output=True, text=True, env=os.environ | plain, check=True
    )
    return "\n".join(line.rstrip() for line in done.stdout.strip("\n").splitlines()).strip("\n")
