"""What the tests of the chat page share."""

from collections.abc import Generator
from typing import Any

import pytest

from tests.server.browser import Complaints, Served, browsing, opened, serving


@pytest.fixture(scope="module")
def served() -> Generator[Served, None, None]:
    """The server of all tests of a file."""
    with serving() as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Generator[Any, None, None]:
    """The browser of all tests of a file."""
    with browsing() as started:
        yield started


@pytest.fixture
def opening(browser: Any, served: Served) -> Generator[tuple[Any, Complaints], None, None]:
    """A page, and what it may complain about."""
    served.says()
    with opened(browser, served.url) as both:
        yield both


@pytest.fixture
def page(opening: tuple[Any, Complaints]) -> Any:
    """A page that has nothing to complain about."""
    return opening[0]
