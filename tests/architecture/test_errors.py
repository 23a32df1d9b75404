"""The tree drawn at the head of errors.py is the tree of the classes."""

import inspect
import re

from seed_oss import errors
from seed_oss.errors import SeedOssError

DRAWN = re.compile(r"^ *(?P<rails>[│├└─ ]*)(?P<name>[A-Z]\w+)(?: +\((?P<builtins>[\w, ]+)\))?", re.MULTILINE)


def drawn_tree() -> dict[str, tuple[str, ...]]:
    """Each drawn class with its bases: the one it hangs from, then the built-in ones in brackets."""
    tree: dict[str, tuple[str, ...]] = {}
    above: list[str] = []
    picture = (errors.__doc__ or "").split("\n\n")[1]
    for match in DRAWN.finditer(picture):
        depth = len(match["rails"]) // 4
        above[depth:] = [match["name"]]
        builtins = tuple(name.strip() for name in (match["builtins"] or "").split(",") if name.strip())
        tree[match["name"]] = ((above[depth - 1],) if depth else ("Exception",)) + builtins
    return tree


def defined_tree() -> dict[str, tuple[str, ...]]:
    """Each error class of the module with the names of its bases."""
    classes = {name: kind for name, kind in vars(errors).items() if inspect.isclass(kind)}
    return {name: tuple(base.__name__ for base in kind.__bases__) for name, kind in classes.items()}


def test_the_drawn_tree_is_the_real_one() -> None:
    assert drawn_tree() == defined_tree()


def test_every_error_has_the_one_root() -> None:
    classes = [kind for kind in vars(errors).values() if inspect.isclass(kind)]
    assert len(classes) > 5
    assert all(issubclass(kind, SeedOssError) for kind in classes)
