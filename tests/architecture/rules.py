"""The rules that no file may break, each a function from a file's syntax tree to (line, what is wrong)."""

import ast
from collections.abc import Callable, Iterator

from tests.architecture.source import called_name, imports_in

Offence = tuple[int, str]
Rule = Callable[[ast.Module], Iterator[Offence]]

CODE_FROM_DATA_CALLS = {
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen"),
    *("torch.load", "torch.save", "torch.jit.load", "torch.hub.load", "numpy.load", "np.load"),
    *("yaml.load", "yaml.unsafe_load"),
}
CODE_FROM_DATA_MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "runpy"}
SKIPS = {"skip", "skipif", "xfail"}


def importing(*modules: str) -> Rule:
    """Imports of any of these top-level modules, lazy ones included."""

    def rule(tree: ast.Module) -> Iterator[Offence]:
        return ((line, f"imports {name}") for line, name in imports_in(tree) if name.split(".")[0] in modules)

    return rule


def calling(*names: str) -> Rule:
    """Calls spelled with any of these dotted names."""

    def rule(tree: ast.Module) -> Iterator[Offence]:
        calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
        return ((call.lineno, f"calls {called_name(call)}") for call in calls if called_name(call) in names)

    return rule


def shell(tree: ast.Module) -> Iterator[Offence]:
    """Commands given to a shell instead of as a list of arguments."""
    keywords = (node for node in ast.walk(tree) if isinstance(node, ast.keyword))
    return ((keyword.value.lineno, "shell=") for keyword in keywords if keyword.arg == "shell")


def swallowing(tree: ast.Module) -> Iterator[Offence]:
    """`except:` and `except Exception:` whose body neither raises nor uses the exception."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.ExceptHandler):
            continue
        broad = node.type is None or (
            isinstance(node.type, ast.Name) and node.type.id in {"Exception", "BaseException"}
        )
        used = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
        answers = node.name in used or any(isinstance(part, ast.Raise) for part in ast.walk(node))
        if broad and not answers:
            yield node.lineno, "catches everything and raises nothing"


def not_implemented(tree: ast.Module) -> Iterator[Offence]:
    """Stubs: anything that raises NotImplementedError."""
    names = (node for node in ast.walk(tree) if isinstance(node, ast.Name))
    return ((name.lineno, "NotImplementedError") for name in names if name.id == "NotImplementedError")


def skip_without_reason(tree: ast.Module) -> Iterator[Offence]:
    """Skips and expected failures that do not say why, as calls and as bare decorators."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and called_name(node).split(".")[-1] in SKIPS and not _gives_reason(node):
            yield node.lineno, f"{called_name(node)} without a reason"
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            bare = (mark for mark in node.decorator_list if isinstance(mark, ast.Attribute) and mark.attr in SKIPS)
            yield from ((mark.lineno, f"{mark.attr} without a reason") for mark in bare)


def _gives_reason(call: ast.Call) -> bool:
    reasons = [keyword.value for keyword in call.keywords if keyword.arg in {"reason", "msg"}]
    reasons += call.args[:1] if called_name(call) == "pytest.skip" else []
    return any(not (isinstance(reason, ast.Constant) and not reason.value) for reason in reasons)


def missing_docstring(tree: ast.Module) -> Iterator[Offence]:
    """The module, and public classes, functions and methods without a docstring (overloads and dunders need none)."""
    if not ast.get_docstring(tree):
        yield 1, "module without a docstring"
    yield from _undocumented(tree.body)


def _undocumented(body: list[ast.stmt]) -> Iterator[Offence]:
    for node in body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) or node.name.startswith("_"):
            continue
        if not ast.get_docstring(node) and not _needs_no_docstring(node):
            yield node.lineno, f"{node.name} without a docstring"
        if isinstance(node, ast.ClassDef):
            yield from _undocumented(node.body)


def _needs_no_docstring(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> bool:
    marks = {ast.unparse(mark).split(".")[-1] for mark in node.decorator_list}
    return bool(marks & {"overload", "override", "setter"})
