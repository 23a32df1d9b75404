"""From what an answer must be to a compiled grammar, within bounds of size, time and memory."""

import hashlib
import json
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy
import torch
from torch import Tensor

from seed_oss.chat.control_tokens import END_TOOL_CALL, TOOL_CALL
from seed_oss.chat.output_format import OutputFormat
from seed_oss.chat.schema_checks import CheckedSchema
from seed_oss.chat.tokenizer import SeedOssTokenizer
from seed_oss.chat.tool_choice import ToolFunction
from seed_oss.chat.tool_grammar import call_rules, json_rule, regex_literal
from seed_oss.errors import ConfigError, InputError, TokenizerError
from seed_oss.generation.bounded_work import BoundedWork
from seed_oss.generation.grammar_package import first_line, package_errors, require_llguidance

MAX_RUNNING_COMPILES = 4  # one that takes too long goes on behind the caller's back
MAX_CACHED_GRAMMARS = 128
MAX_SOURCE_BYTES = 2 * 2**20  # of the grammar made from all tools of a request

# A compiled grammar's size cannot be asked for, so this is an estimate. Measured by the growth of the process over
# 240 grammars and 155,136 tokens: 0.4 (regular expressions of 0.4 KB) to 0.9 of it (schemas of 0.5, 3 and 18 KB). Use
# adds what the lexer learns: 0.1 to 0.2 MiB after 180 random tokens, 20 MiB for an expression made for that.
_BYTES_PER_SOURCE_BYTE = 100
_BYTES_PER_GRAMMAR = 128 * 1024
_STACK_BYTES = 64 * 2**20  # the package recurses along chains of rules and references
_LIMITS = {
    "initial_lexer_fuel": 150_000,
    "step_lexer_fuel": 200_000,
    "step_max_items": 100_000,
    "max_items_in_row": 16_000,
    "max_lexer_states": 50_000,
    "max_grammar_size": 200_000,
    "precompute_large_lexemes": True,  # without, the first mask of a hostile expression takes minutes
    "verbose_errors": False,
}


# Otherwise the package takes fixed text through the tokenizer, to which a spelled-out marker is that control token.
_NO_FORCING = '%llguidance {"no_forcing": true}\n'


@dataclass(frozen=True, slots=True)
class GrammarLimits:
    """Bounds of compiling.

    Args:
        compile_s: seconds that one grammar may take.
        cache_bytes: of the grammars that are kept, about.

    Raises:
        ConfigError: a value that is not above 0.
    """

    compile_s: float = 1.0
    cache_bytes: int = 64 * 2**20

    def __post_init__(self) -> None:
        """Check."""
        if not 0 < self.compile_s < math.inf or self.cache_bytes < 1:
            raise ConfigError(
                f"compile_s is {self.compile_s!r} and cache_bytes is {self.cache_bytes!r}; give numbers above 0"
            )


class CompiledGrammar:
    """A grammar over one vocabulary; rows work on copies of its matcher.

    The copies share what the lexer learns in use, and its bounds with it: once they are reached, no copy goes on. Then
    `renew` puts a new matcher in place of the worn one.

    Args:
        prototype: the package's matcher in its first state.
        num_tokens: tokens that the matcher knows.
        eos_ids: ids that the matcher takes for an end; they are masked by whoever uses it.
        remake: makes another prototype.
    """

    def __init__(self, prototype: Any, num_tokens: int, eos_ids: tuple[int, ...], remake: Callable[[], Any]) -> None:
        self.prototype, self.num_tokens, self.eos_ids = prototype, num_tokens, eos_ids
        self._remake = remake
        self._lock = threading.Lock()

    def renew(self, worn: Any) -> None:
        """Make another prototype, unless that has been done already.

        Args:
            worn: the prototype whose copies go no further.

        Raises:
            InputError, StateError: see `GrammarCompiler.compile`.
        """
        with self._lock:
            if self.prototype is worn:
                self.prototype = self._remake()

    def mask(self, matcher: Any, vocab_size: int) -> Tensor:
        """What a matcher allows next, ends left out.

        Args:
            matcher: a copy of the prototype, somewhere in a text.
            vocab_size: length of the mask; ids that the tokenizer does not have are not allowed.

        Returns:
            bool `[vocab_size]` on the CPU.
        """
        packed = numpy.frombuffer(matcher.compute_bitmask(), dtype=numpy.uint8)
        num = min(self.num_tokens, vocab_size)
        mask = numpy.zeros(vocab_size, dtype=numpy.bool_)
        mask[:num] = numpy.unpackbits(packed, count=num, bitorder="little")
        mask[[one for one in self.eos_ids if one < num]] = False
        return torch.from_numpy(mask)


class GrammarCompiler:
    """Compiles grammars for one tokenizer, and keeps the last ones. Making one takes about a second for 155,136 tokens.

    `GrammarCompiler.of` makes one per tokenizer.

    Args:
        tokenizer: a SeedOssTokenizer.
        limits: bounds.

    Raises:
        MissingExtraError: the package llguidance is not installed.
        TokenizerError: the tokenizer is of a kind that the package cannot read.
    """

    def __init__(self, tokenizer: Any, limits: GrammarLimits | None = None) -> None:
        package = require_llguidance()
        self.tokenizer, self.limits = tokenizer, limits or GrammarLimits()
        eos = tokenizer.eos_token_id
        self._eos_ids = () if eos is None else (int(eos),)
        try:
            with package_errors("the tokenizer cannot be used for grammars"):
                backend = tokenizer.backend_tokenizer.to_str()
                self._vocabulary = package.LLTokenizer(backend, eos_token=list(self._eos_ids) or None)
        except InputError as error:
            raise TokenizerError(str(error)) from error
        self._eos_ids = tuple(self._vocabulary.eos_tokens)
        self._cache: OrderedDict[bytes, tuple[CompiledGrammar, int]] = OrderedDict()
        self._cached_bytes = 0
        self._lock = threading.Lock()
        self._work = BoundedWork("compiling grammars", MAX_RUNNING_COMPILES, _STACK_BYTES)

    @classmethod
    def of(cls, tokenizer: SeedOssTokenizer) -> "GrammarCompiler":
        """The compiler of a tokenizer, made at the first call and kept with the tokenizer as long as its tokens stay.

        Args:
            tokenizer: with the vocabulary.

        Raises:
            MissingExtraError, TokenizerError: see the class.
        """
        return tokenizer.remembered(_limited)

    @staticmethod
    def limit(tokenizer: SeedOssTokenizer, limits: GrammarLimits) -> None:
        """Set the bounds of the compiler that `of` gives, before it is made: afterwards they stay as they are.

        Args:
            tokenizer: with the vocabulary.
            limits: bounds.
        """
        tokenizer.remembered(_Kept).limits = limits

    def id_of(self, text: str) -> int | None:
        """The id of an added token, or None."""
        return self.tokenizer.get_added_vocab().get(text)

    def compile(
        self,
        output: OutputFormat | None = None,
        functions: Sequence[ToolFunction] = (),
        *,
        several_calls: bool = True,
    ) -> CompiledGrammar:
        """Compile what an answer may be: of a form, or calls of functions, or either.

        Args:
            output: the form.
            functions: the functions.
            several_calls: whether there may be more than one call.

        Raises:
            InputError: it cannot be compiled, not within the bounds, or allows nothing. The message names the place.
            StateError: too many other grammars are being compiled.
            TokenizerError: there are functions, and the vocabulary has no `<seed:tool_call>`.
        """
        source = self._source(output, functions, several_calls)
        places = [*([output.checked] if output and output.checked else []), *(one.parameters for one in functions)]
        name = output.place if output else "tools"
        if len(source) > MAX_SOURCE_BYTES:
            raise InputError(f"{name}: the grammar has {len(source)} characters; {MAX_SOURCE_BYTES} are allowed")
        key = hashlib.sha256(source.encode("utf-8")).digest()
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key][0]

        def make() -> Any:
            return self._built(key, source, name, places)

        grammar = CompiledGrammar(make(), self._vocabulary.vocab_size, self._eos_ids, make)
        self._keep(key, grammar, _BYTES_PER_GRAMMAR + _BYTES_PER_SOURCE_BYTE * len(source))
        return grammar

    def _keep(self, key: bytes, grammar: CompiledGrammar, num_bytes: int) -> None:
        with self._lock:
            if num_bytes > self.limits.cache_bytes or key in self._cache:
                return
            self._cache[key] = (grammar, num_bytes)
            self._cached_bytes += num_bytes
            while self._cached_bytes > self.limits.cache_bytes or len(self._cache) > MAX_CACHED_GRAMMARS:
                self._cached_bytes -= self._cache.popitem(last=False)[1][1]

    # Sources

    def _source(self, output: OutputFormat | None, functions: Sequence[ToolFunction], several: bool) -> str:
        """The grammar in the package's own form."""
        if not functions:
            if output is None:
                raise InputError("there is nothing to compile: neither a form for the answer nor tools")
            return self._source_of(output)
        ids = [self.id_of(token.text) for token in (TOOL_CALL, END_TOOL_CALL)]
        if None in ids:
            raise TokenizerError(
                f"the vocabulary has no {TOOL_CALL} and {END_TOOL_CALL}, so this model cannot call tools in the Seed "
                "format; leave tool_choice and parallel_tool_calls out, or take tool_choice 'none'"
            )
        rules = call_rules(functions, *ids)  # type: ignore[arg-type]
        calls = 'calls: call ("\\n"? call)*\n' if several else "calls: call\n"
        if output is None:
            return _sources(f"start: calls\n{calls}{rules}")
        if output.kind == "lark":
            return _sources(f"start: calls | answer\nanswer: @answer\n{calls}{rules}", answer=output.source)
        return _sources(f"start: calls | answer\nanswer: {_inline(output)}\n{calls}{rules}")

    def _source_of(self, output: OutputFormat) -> str:
        return _sources(output.source if output.kind == "lark" else f"start: {_inline(output)}\n")

    # Building

    def _built(self, key: bytes, source: str, name: str, places: Sequence[CheckedSchema]) -> Any:
        matcher, error = self._in_time(key, source, name)
        error = error.rpartition("failed to compile JSON schema: ")[2]
        if error:
            raise InputError(f"{_place_of(error, name, places)}: {_explained(error)}")
        return matcher

    def _in_time(self, key: bytes, source: str, name: str) -> tuple[Any, str]:
        """Build on a thread with a large stack; what the limits let through but takes too long is left to it."""
        seconds = self.limits.compile_s
        try:
            with package_errors(name):
                return self._work.result(key, lambda: self._build(source), seconds)
        except InputError as error:
            if isinstance(error.__cause__, TimeoutError):
                raise InputError(
                    f"{name} took longer than {seconds:g} s to compile, the limit; make it simpler"
                ) from None
            raise

    def _build(self, source: str) -> tuple[Any, str]:
        package = require_llguidance()
        limits = package.LLParserLimits(**_LIMITS)
        matcher = package.LLMatcher(self._vocabulary, source, log_level=0, limits=limits)
        if not matcher.is_error():
            probe = matcher.deep_copy()  # the first step shows what the limits refuse only when used
            mask = probe.compute_bitmask()
            if not any(mask) and not probe.is_error():
                return None, "Unsatisfiable: it allows no text at all"
            if probe.is_error():
                return None, probe.get_error()
        return matcher, matcher.get_error()


class _Kept:
    """The bounds that were set for a tokenizer."""

    def __init__(self, tokenizer: SeedOssTokenizer) -> None:
        self.limits = GrammarLimits()


def _limited(tokenizer: SeedOssTokenizer) -> GrammarCompiler:
    return GrammarCompiler(tokenizer, tokenizer.remembered(_Kept).limits)


def _sources(main: str, **others: str) -> str:
    """Grammars in Lark that belong together, the main one first, as the package takes them."""
    named = [{"lark_grammar": main}, *({"name": name, "lark_grammar": lark} for name, lark in others.items())]
    return json.dumps({"grammars": [{**one, "lark_grammar": _NO_FORCING + one["lark_grammar"]} for one in named]})


def _inline(output: OutputFormat) -> str:
    """A regular expression or a schema, as it stands in a grammar."""
    if output.kind == "regex":
        return regex_literal(output.source)
    data = json.loads(output.source)
    members = data if isinstance(data, dict) else {} if data else {"enum": []}
    return json_rule(members, output.place)


def _place_of(error: str, name: str, places: Sequence[CheckedSchema]) -> str:
    """Where the keyword stands that an error speaks of, as far as that can be told."""
    shown = error.partition("regex parse error:\n")[2].partition("\n")[0].strip()
    found = [
        (len(bare), place)
        for checked in places
        for pattern, place in checked.patterns.items()
        if (bare := pattern.removeprefix("^").removesuffix("$")) and bare in shown
    ]
    if found:
        return max(found)[1]
    for keyword in ("oneOf", "patternProperty", "minProperties", "maxProperties", "min/maxProperties", "pattern"):
        if keyword not in error:
            continue
        known = {"patternProperty": ("patternProperties",), "min/maxProperties": ("minProperties", "maxProperties")}
        for checked in places:
            for one in known.get(keyword, (keyword,)):
                if one in checked.first_places:
                    return checked.first_places[one]
    return name


def _explained(error: str) -> str:
    if error.startswith("NoExtension"):
        return "it allows no text at all"
    if error.startswith("oneOf constraints"):
        return "oneOf is supported only where its alternatives exclude each other by type or const; use anyOf"
    if "fuel exhausted" in error or "too big" in error or "too large" in error or "too many" in error:
        return f"it is too complex; make it smaller ({first_line(error)})"
    return first_line(error)
