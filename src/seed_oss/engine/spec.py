"""What an engine's process is started with: plain data, one JSON argument of its command line. No torch."""

import json
import math
import re
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from seed_oss.errors import InputError
from seed_oss.files import parse_json

_LORA_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_NUMBERS = (
    "threads",
    "max_num_seqs",
    "max_model_len",
    "max_num_batched_tokens",
    "max_num_waiting",
    "max_num_queued_tokens",
    "kv_cache_memory",
    "grammar_cache_bytes",
)
EXIT_REFUSED = 78  # of a process that can never start with what it was given; EX_CONFIG in sysexits.h


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """Which model an engine runs, and how.

    Attributes:
        model: folder, GGUF file, hub id or "demo".
        revision: of a hub model, or None.
        dtype: of the weights, "auto" for the one they are stored in.
        device: where the model runs.
        quantization: scheme that the weights are brought into while they are loaded, or None.
        threads: CPU threads, None for one per core.
        max_num_seqs: rows that run at the same time.
        max_model_len: most tokens of a prompt and its answer; None for the model's own limit.
        max_num_batched_tokens: most tokens of one step; None lets the engine choose.
        max_num_waiting: most answers that wait for a row; None is four times `max_num_seqs`.
        max_num_queued_tokens: most tokens of prompts that wait; None lets the engine choose.
        kv_cache_memory: bytes of the cache of keys and values; None lets the engine choose.
        kv_cache_dtype: "auto", "float32", "bfloat16" or "int8".
        cache_dir: folder for cached prompts that outlive the process, or None.
        cache_dir_bytes: most bytes that it may take.
        queue_s: seconds that a request waits before it ends with "timeout".
        no_progress_s: seconds without a token or a part of a prompt before a request ends with "timeout".
        total_s: seconds before any request ends with "timeout", or None.
        ahead_s: seconds that a step may take in which rows get several tokens, and at most `stream_interval_s`; what
            arrives meanwhile waits for it. 0 gives them one at a time.
        grammar_s: seconds that compiling one grammar may take.
        grammar_cache_bytes: of the compiled grammars that are kept, about.
        lora: adapters, each "NAME=FOLDER"; requests choose one by its name.
        stream_interval_s: seconds between two times at which tokens leave a process of the engine, to the nearest step,
            apart from the first and the last ones of an answer; more with many streams (see `Pace`). 0 sends each
            step's at once.
    """

    model: str
    revision: str | None = None
    dtype: str = "auto"
    device: str = "auto"
    quantization: str | None = None
    threads: int | None = None
    max_num_seqs: int = 16
    max_model_len: int | None = None
    max_num_batched_tokens: int | None = None
    max_num_waiting: int | None = None
    max_num_queued_tokens: int | None = None
    kv_cache_memory: int | None = None
    kv_cache_dtype: str = "auto"
    cache_dir: str | None = None
    cache_dir_bytes: int = 8 * 2**30
    queue_s: float = 60.0
    no_progress_s: float = 120.0
    total_s: float | None = None
    ahead_s: float = 0.04
    grammar_s: float = 1.0
    grammar_cache_bytes: int = 64 * 2**20
    lora: tuple[str, ...] = ()
    stream_interval_s: float = 0.04

    def __post_init__(self) -> None:
        """Check numbers.

        Raises:
            InputError: one that cannot be.
        """
        for name in _NUMBERS:
            value: Any = getattr(self, name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise InputError(f"{name} is {value!r:.60}; give a whole number above 0")
        for name in ("ahead_s", "stream_interval_s"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < math.inf:
                raise InputError(f"{name} is {value!r:.60}; give a finite number of seconds, 0 or more")

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Inverse of `to_json`.

        Raises:
            CheckpointError: no strict JSON.
            InputError: other fields than these.
        """
        values: Any = parse_json(text, source="the engine's settings")
        known = {one.name for one in fields(cls)}
        if not isinstance(values, dict) or "model" not in values or not values.keys() <= known:
            raise InputError(f"the engine's settings are an object with 'model' and among {', '.join(sorted(known))}")
        return cls(**{**values, "lora": _texts(values.get("lora", []))})

    @property
    def lora_folders(self) -> dict[str, str]:
        """Folder of each adapter by its name.

        Raises:
            InputError: a name that cannot be, or twice the same.
        """
        folders: dict[str, str] = {}
        for one in self.lora:
            name, _, folder = one.partition("=")
            if not _LORA_NAME.fullmatch(name) or not folder:
                raise InputError(
                    f"lora is {one!r:.120}; write NAME=FOLDER, the name with 1 to 64 letters, digits, '.', '_' and '-'"
                )
            if name in folders:
                raise InputError(f"lora names {name!r} twice; give every adapter a name of its own")
            folders[name] = folder
        return folders


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise InputError("lora of the engine's settings is no list of texts; write NAME=FOLDER for each adapter")
    return tuple(value)
