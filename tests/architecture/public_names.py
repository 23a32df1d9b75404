"""Writes down what users may rely on: `python -m tests.architecture.public_names` rewrites public_names.txt."""

import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path

FROZEN = Path(__file__).with_name("public_names.txt")
MODULES = ("seed_oss", "seed_oss.chat", "seed_oss.errors")
MODEL_METHODS = (
    *("from_pretrained", "save_pretrained", "forward", "generate", "num_parameters", "tie_weights"),
    *("get_input_embeddings", "set_input_embeddings", "get_output_embeddings", "set_output_embeddings"),
    *("resize_token_embeddings", "set_attn_implementation", "gradient_checkpointing_enable"),
    *("gradient_checkpointing_disable", "prepare_inputs_for_generation"),
)
HEADER = (
    "# Public names with their arguments. Add, never rename or remove: users' programs are written against these.\n"
)


def exported(module_name: str) -> list[str]:
    """The names a module exports, sorted."""
    module = importlib.import_module(module_name)
    names = getattr(module, "__all__", None) or [n for n, v in vars(module).items() if inspect.isclass(v)]
    return sorted(names)


def arguments_of(function: object) -> str:
    """A signature without annotations: names, kinds and which are optional are what callers depend on."""
    if not callable(function):
        return ""
    parameters = inspect.signature(function).parameters.values()
    bare = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in parameters]
    return str(inspect.Signature([_without_default_value(parameter) for parameter in bare]))


def _without_default_value(parameter: inspect.Parameter) -> inspect.Parameter:
    simple = isinstance(parameter.default, int | float | str | bool | None)
    return parameter if simple else parameter.replace(default="...")


def methods_of(kind: type) -> Iterator[str]:
    """Public methods written by us, in the class or a base of ours; constructors first."""
    if issubclass(kind, BaseException):
        return
    names = {name for base in kind.__mro__ if base.__module__.startswith("seed_oss") for name in vars(base)}
    ours = sorted(name for name in names if not name.startswith("_"))
    torch_module = any(base.__module__.startswith("torch.nn") for base in kind.__mro__)
    for name in MODEL_METHODS if torch_module else ours:
        member = getattr(kind, name, None)
        yield f"{name}{arguments_of(member)}" if callable(member) else name


def lines() -> Iterator[str]:
    """One line for each public name, and one for each method of a public class."""
    for module_name in MODULES:
        module = importlib.import_module(module_name)
        for name in exported(module_name):
            value = getattr(module, name)
            yield f"{module_name}.{name}{arguments_of(value) if inspect.isfunction(value) else ''}"
            if inspect.isclass(value):
                yield from (f"{module_name}.{name}.{method}" for method in methods_of(value))


def text() -> str:
    """The whole list as public_names.txt holds it."""
    return HEADER + "\n".join(lines()) + "\n"


if __name__ == "__main__":
    FROZEN.write_text(text(), encoding="utf-8")
