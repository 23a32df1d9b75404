"""Names and texts of a model folder in messages."""

import pytest

from seed_oss.files.names import escaped, short


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é 日本 🙂", "plain é 日本 🙂"),
        ("two\n\tlines", "two\n\tlines"),
        ("\x1b]0;pwned\x07", "\\x1b]0;pwned\\x07"),
        ("\x9b31m", "\\x9b31m"),
        ("a\u202eb\u2066c", "a\\u202eb\\u2066c"),
        ("\ud800\r\x7f", "\\ud800\\r\\x7f"),
    ],
)
def test_what_commands_a_terminal_is_escaped(text: str, shown: str) -> None:
    assert escaped(text) == shown
    assert "\x1b" not in short(text)
