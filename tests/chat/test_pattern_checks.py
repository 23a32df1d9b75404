"""Regular expressions of tokenizers: those that are known pass, those that can take hours do not."""

import json
import subprocess
import sys

import pytest
from tokenizers import Regex, pre_tokenizers

from seed_oss.chat.pattern_checks import MAX_COUNT, MAX_WAYS, slow_pattern_reason
from tests.stopwatch import Stopwatch

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_NO_HAN = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]"

# The patterns stand in the tokenizer.json of the models named.
REAL = {
    "gpt-2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "falcon": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)",
    "llama 3": _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*" + _SPACES,
    "qwen 2": _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*" + _SPACES,
    "qwen 3.5": _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*" + _SPACES,
    "seed-coder": _CONTRACTIONS
    + "|[^\r\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1}| ?[^\\s\\p{L}\\p{N}\r\n]+|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
    "gpt-4o": rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_CONTRACTIONS}?"
    rf"|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_CONTRACTIONS}?|\p{{N}}{{1,3}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*" + _SPACES,
    "tekken": rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*|\p{{N}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*" + _SPACES,
    "kimi": rf"[\p{{Han}}]+|[^\r\n\p{{L}}\p{{N}}]?{_NO_HAN}*[\p{{Ll}}&&[^\p{{Han}}]]+{_CONTRACTIONS}?"
    rf"|[^\r\n\p{{L}}\p{{N}}]?{_NO_HAN}+[\p{{Ll}}&&[^\p{{Han}}]]*{_CONTRACTIONS}?|\p{{N}}{{1,3}}" + _SPACES,
    "deepseek 3": r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    r"| ?[\p{P}\p{S}]+[\r\n]*" + _SPACES,
    "deepseek 3, digits": r"\p{N}{1,3}",
    "deepseek 3, signs": r"[一-龥぀-ゟ゠-ヿ]+",
    "deepseek, spaces": r"\s+$",
    "deepseek, words": r"\s?[A-Za-zµÀ-ÖØ-öø-ƺ𐐀-𐑏]+",
    "deepseek coder": r"\s?\p{P}+",
    "bailing": r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*"
    r"|\s*[\r\n]|\s+(?!\S)|\s+",
    "cl100k": r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
    r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s",
    "exaone": _CONTRACTIONS
    + r"|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?"
    + r"|\s*[\r\n]|\s+(?!\S)|\s+",
    "jais 2": _CONTRACTIONS
    + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s{512}(?!\S)|\s{256}(?!\S)"
    r"|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1}",
    "aya": r"\d{1,3}(?=(?:\d{3})*\b)",
    "superbpe": r"(?=(\d{3})+(?!\d))",
    "bloom": r" ?[^(\s|[.,!?…。，、।۔،])]+",
    "chameleon": "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z",
    "chameleon, ends": "<sentinel:[0-9]+>",
    "laguna": r"[^\n]+|[\n]+",
    "clip": r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
    "clip, normalizer": r"\s+",
    "t5, normalizer": " {2,}",
    "normalizer of spaces": r"\s{2,}|[\n\r\t]",
    "seamless": " +▁",
    "seamless, lines": "^▁+$",
    "three digits": "[0-9][0-9][0-9]",
    "letters in pieces": ".{1,24}",
    "nothing": "",
    "quotes": "``",
}


@pytest.mark.parametrize("name", list(REAL))
def test_patterns_of_real_tokenizers(name: str) -> None:
    pattern = REAL[name]
    assert slow_pattern_reason(pattern) is None
    assert slow_pattern_reason(pattern.replace(r"\r\n", "\r\n")) is None
    if pattern:
        pre_tokenizers.Split(Regex(pattern), "isolated").pre_tokenize_str("I'm 1234 ok\n  日本")


LINEAR = [name for name in REAL if name not in ("deepseek, spaces", "seamless", "superbpe", "aya")]


@pytest.mark.parametrize("name", LINEAR)
def test_they_are_fast_on_long_runs(name: str) -> None:
    split = pre_tokenizers.Split(Regex(REAL[name] or "x"), "isolated")
    for run in (" ", "a", "A", "ʰ", "日", "1", ".", "\n", " \n", "a1", "▁"):
        with Stopwatch() as spent:
            split.pre_tokenize_str(run * (50_000 // len(run)) + "\x00")
        assert spent.seconds < 4, repr(run)


SLOW = [
    "(a|a){0,20}c|a",
    "(a|a)+b|(a|a)+",
    "(x+x+)+y",
    "(a*)*b",
    "(?:a|b|ab)+c",
    "(?i:a|A)+b|a",
    "a*b|a",
    "a*b|a+?",
    "a*b|a{1,2}",
    "a*b|x|a+",
    "a+?+b",
    "a{1,3}+b",
    "a{2}{3}*b",
    "a*a*b|a*",
    "(?:a*b)?a|a",
    "(?=a*b)a",
    "(?<!a*b)a",
    "a?" * 30 + "a" * 30,
    "(a|a)" * 20 + "c",
    "(?:a|a)?" * 20 + "c",
    "a{0,500}b",
    "((a{100}){100}){100}",
    "a{99999}b",
    r"(a)\1*b",
    r"(?<n>a)\k<n>",
    r"\g<0>a",
    "(?~ab)",
    "(?x) a # comment",
    "(?#a)b",
    "[]a]*b",
    "(" * 40 + "a" + ")" * 40,
    r".*\n",
    "a*$",
    "(",
    ")",
    "[a",
    "*a",
    "\\",
]


@pytest.mark.parametrize("pattern", SLOW)
def test_patterns_that_can_be_slow_are_refused(pattern: str) -> None:
    assert slow_pattern_reason(pattern)


def test_limits_are_exact() -> None:
    assert slow_pattern_reason(f"a{{{MAX_COUNT}}}b") is None
    assert slow_pattern_reason(f"a{{{MAX_COUNT + 1}}}b")
    assert slow_pattern_reason(f"a{{0,{MAX_WAYS - 1}}}b") is None
    assert slow_pattern_reason(f"a{{0,{MAX_WAYS}}}b")


_HANGS = """
from tests.chat.tokenizer_factory import tiny_backend
import json, sys
from seed_oss.chat.backend import load_backend
state = json.loads(tiny_backend().to_str())
part, pattern, text = json.loads(sys.argv[1])
regex = {"pattern": {"Regex": pattern}}
state[part] = (
    {"type": "Split", **regex, "behavior": "Isolated", "invert": False}
    if part == "pre_tokenizer" else {"type": "Replace", **regex, "content": "x"}
)
try:
    tokenizer, _ = load_backend(json.dumps(state).encode(), source="x")
    ids = tokenizer.encode(text).ids
    tokenizer.decode(ids)
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize("part", ["normalizer", "pre_tokenizer", "decoder"])
def test_a_file_with_such_a_pattern_is_refused(part: str) -> None:
    for pattern, text in (("(a|a){0,20}c|a", "a" * 60), ("a*b|a", "a" * 60_000)):
        command = [sys.executable, "-c", _HANGS, json.dumps([part, pattern, text])]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
        assert done.stdout.startswith("TokenizerError"), done
        assert f"pattern {pattern!r} of the {part}" in done.stdout
