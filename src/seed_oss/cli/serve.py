"""`seed-oss serve`: a model behind OpenAI's HTTP API."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seed_oss.cli.options import DeviceOption, DType, DTypeOption, QuantizationOption, RevisionOption, ThreadsOption
from seed_oss.errors import MissingExtraError

if TYPE_CHECKING:
    from seed_oss.server.settings import ServeSettings

_MAX_DIGITS = 9
_MAX_BODY_BYTES = 8 * 2**20  # what the strict reader of JSON takes


def _seconds(help_text: str, **more: Any) -> Any:
    return typer.Option(metavar="SECONDS", help=help_text, **more)


def _number(help_text: str, metavar: str = "NUMBER", **more: Any) -> Any:
    return typer.Option(min=1, metavar=metavar, help=help_text, **more)


ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="Folder of a checkpoint, GGUF file, hub id, or 'demo' (a small model).",
        show_default=False,
    ),
]
NamesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--served-model-name",
        metavar="NAME",
        help="What requests call the model; may be given several times. Default: its hub id, or the folder's name.",
        show_default=False,
    ),
]
LoraOption = Annotated[
    list[str] | None,
    typer.Option(
        "--lora",
        metavar="NAME=FOLDER",
        help="An adapter in peft's format, which requests choose by its name; may be given several times.",
        show_default=False,
    ),
]
HostOption = Annotated[
    str, typer.Option(metavar="ADDRESS", help="Where to listen. Others reach 0.0.0.0; that needs a key.")
]
PortOption = Annotated[int, typer.Option(min=0, max=65535, metavar="PORT", help="Where to listen; 0 takes a free one.")]
KeyFileOption = Annotated[
    Path | None,
    typer.Option(
        "--api-key-file",
        metavar="FILE",
        help="API keys, one a line, mode 0600. Further ones in the variable SEED_OSS_API_KEY, commas between.",
        show_default=False,
    ),
]
UnauthenticatedOption = Annotated[
    bool, typer.Option("--allow-unauthenticated", help="Listen where others can reach it although there are no keys.")
]
HostNameOption = Annotated[
    list[str] | None,
    typer.Option(
        "--allowed-host",
        metavar="NAME",
        help="A name of this server, for requests without keys, besides localhost; may be given several times.",
        show_default=False,
    ),
]
OriginOption = Annotated[
    list[str] | None,
    typer.Option(
        "--cors-origin",
        metavar="ORIGIN",
        help="A web page that may ask, like https://chat.example.org; may be given several times.",
        show_default=False,
    ),
]
MaxNumSeqsOption = Annotated[int, _number("Answers that are generated at the same time.")]
MaxModelLenOption = Annotated[
    int | None,
    _number(
        "Most tokens of a prompt and its answer; the default is the model's own limit.", "TOKENS", show_default=False
    ),
]
BatchedTokensOption = Annotated[
    int | None, _number("Most tokens of one step; the engine chooses otherwise.", "TOKENS", show_default=False)
]
WaitingOption = Annotated[
    int | None,
    _number(
        "Answers that wait for their turn; beyond there is 429. The default is four times --max-num-seqs.",
        show_default=False,
    ),
]
QueuedTokensOption = Annotated[
    int | None, _number("Most tokens of prompts that wait; beyond there is 429.", "TOKENS", show_default=False)
]
CacheMemoryOption = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="Memory for keys and values, such as 4GiB; the engine chooses otherwise.",
        show_default=False,
    ),
]
CacheDTypeOption = Annotated[
    str, typer.Option(metavar="DTYPE", help="Of keys and values: auto, float32, bfloat16 or int8.")
]
CacheDirOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER", help="Keep prompts that were computed here, over restarts, too.", show_default=False
    ),
]
CacheDirSizeOption = Annotated[str, typer.Option(metavar="SIZE", help="Most that --cache-dir may take.")]
ThinkingOption = Annotated[
    int | None,
    typer.Option(
        "--thinking-budget",
        min=-1,
        metavar="TOKENS",
        help="Most tokens of thinking where a request does not say; the default is no limit.",
        show_default=False,
    ),
]
LoopGuardOption = Annotated[
    bool, typer.Option("--loop-guard", help="End answers that repeat themselves, where a request does not say.")
]
TurnsOption = Annotated[
    bool,
    typer.Option(
        "--cache-turns/--no-cache-turns",
        help="Let answers of a history stand in its prompt as they were generated, where a request does not say.",
    ),
]
StartOption = Annotated[float, _seconds("Most time until the engine is ready.", min=1.0)]
HangOption = Annotated[
    float,
    _seconds("Restart an engine that is silent so long, or at a step so long and ten times the longest.", min=1.0),
]
HealthOption = Annotated[
    float,
    _seconds(
        "/health is 503 when the engine says nothing for so long, or is at a step for twice that and ten times the "
        "longest.",
        min=1.0,
    ),
]
DrainOption = Annotated[float, _seconds("Time for open requests after a signal; a second one ends at once.", min=0.0)]
QueueOption = Annotated[float, _seconds("Most time that a request waits for its turn.", min=0.1)]
ProgressOption = Annotated[float, _seconds("A request ends when nothing comes of it for so long.", min=0.1)]
TotalOption = Annotated[
    float | None, _seconds("Most time of a request; long thinking takes long.", min=0.1, show_default=False)
]
GrammarTimeOption = Annotated[float, _seconds("Most time to compile the form of an answer.", min=0.01)]
GrammarCacheOption = Annotated[
    str, typer.Option(metavar="SIZE", help="Most that compiled forms of answers may take, about.")
]
KeepAliveOption = Annotated[float, _seconds("A stream in which nothing comes for so long gets a comment.", min=0.1)]
IntervalOption = Annotated[
    float,
    _seconds("Time between two pieces of a stream after the first one, about; 0 sends each token at once.", min=0.0),
]
ConnectionsOption = Annotated[int, _number("Connections at the same time.")]
BodyOption = Annotated[str, typer.Option(metavar="SIZE", help="Largest body of a request, 8MiB at most.")]
BodiesOption = Annotated[
    str, typer.Option(metavar="SIZE", help="Most that the bodies of all requests that are not answered yet may take.")
]
SendTimeOption = Annotated[float, _seconds("How long a client may take nothing of an answer.", min=0.1)]
LimitOption = Annotated[
    list[str] | None,
    typer.Option(
        "--limit",
        metavar="NAME=NUMBER",
        help="A limit of requests by its name, see the manual: n, prompts, answers, inputs, messages, stop, "
        "stop-chars, logit-bias, logprobs, tools, schema-bytes, schema-depth, json-depth, request-line-bytes, "
        "header-bytes, headers, chunks. May be given several times.",
        show_default=False,
    ),
]
HeadTimeOption = Annotated[float, _seconds("Most time for a request's headers to come.", min=0.1)]
BodyTimeOption = Annotated[float, _seconds("Most time for a request's body to come.", min=0.1)]
IdleOption = Annotated[float, _seconds("How long a connection without a request is kept.", min=0.1)]


def serve(
    model: ModelArgument,
    served_model_name: NamesOption = None,
    lora: LoraOption = None,
    host: HostOption = "127.0.0.1",
    port: PortOption = 8000,
    api_key_file: KeyFileOption = None,
    allow_unauthenticated: UnauthenticatedOption = False,
    allowed_host: HostNameOption = None,
    cors_origin: OriginOption = None,
    dtype: DTypeOption = DType.auto,
    quantization: QuantizationOption = None,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    revision: RevisionOption = None,
    max_num_seqs: MaxNumSeqsOption = 16,
    max_model_len: MaxModelLenOption = None,
    max_num_batched_tokens: BatchedTokensOption = None,
    max_num_waiting: WaitingOption = None,
    max_num_queued_tokens: QueuedTokensOption = None,
    kv_cache_memory: CacheMemoryOption = None,
    kv_cache_dtype: CacheDTypeOption = "auto",
    cache_dir: CacheDirOption = None,
    cache_dir_size: CacheDirSizeOption = "8GiB",
    thinking_budget: ThinkingOption = None,
    loop_guard: LoopGuardOption = False,
    cache_turns: TurnsOption = True,
    start_timeout: StartOption = 900.0,
    hang_timeout: HangOption = 120.0,
    health_timeout: HealthOption = 30.0,
    drain_timeout: DrainOption = 30.0,
    queue_timeout: QueueOption = 60.0,
    progress_timeout: ProgressOption = 120.0,
    total_timeout: TotalOption = None,
    grammar_timeout: GrammarTimeOption = 1.0,
    grammar_cache_size: GrammarCacheOption = "64MiB",
    stream_keep_alive: KeepAliveOption = 15.0,
    stream_interval: IntervalOption = 0.04,
    max_connections: ConnectionsOption = 1024,
    max_body_size: BodyOption = "8MiB",
    max_bodies_size: BodiesOption = "64MiB",
    header_timeout: HeadTimeOption = 5.0,
    body_timeout: BodyTimeOption = 30.0,
    idle_timeout: IdleOption = 30.0,
    send_timeout: SendTimeOption = 60.0,
    limit: LimitOption = None,
) -> None:
    """Serve a model over OpenAI's HTTP API.

    The engine runs in a process of its own and is started again when it dies. Logs are lines of JSON on stderr.
    /health, /ready and /metrics are for who runs it. SIGTERM or Ctrl-C lets open requests end.

    Examples:

      seed-oss serve demo

      seed-oss serve ByteDance-Seed/Seed-OSS-36B-Instruct --quantization int4 --max-num-seqs 8

      seed-oss serve FOLDER --host 0.0.0.0 --api-key-file keys.txt --served-model-name seed
    """
    options = dict(locals())  # every option by its name, as it was given
    raise typer.Exit(_served(options))


def _served(options: dict[str, Any]) -> int:
    try:
        from seed_oss.server.serve import serve as run
    except ImportError as error:
        raise MissingExtraError(
            f"a server needs packages that are not installed ({error}). Install them: pip install 'seed-oss[server]'"
        ) from error
    return run(_settings(options))


def _settings(options: dict[str, Any]) -> "ServeSettings":
    from seed_oss.engine.process_client import ProcessSettings
    from seed_oss.engine.spec import EngineSpec
    from seed_oss.server.auth import read_keys
    from seed_oss.server.limits import TransportLimits
    from seed_oss.server.request_limits import RequestLimits
    from seed_oss.server.settings import ServeSettings

    limits = _limits(options["limit"] or ())
    heads = {_HEADS[name]: limits.pop(name) for name in _HEADS if name in limits}
    return ServeSettings(
        spec=EngineSpec(**_spec(options)),
        host=options["host"],
        port=options["port"],
        names=tuple(options["served_model_name"] or ()),
        keys=read_keys(options["api_key_file"], os.environ),
        allow_unauthenticated=options["allow_unauthenticated"],
        allowed_hosts=tuple(options["allowed_host"] or ()),
        origins=tuple(options["cors_origin"] or ()),
        limits=TransportLimits(
            max_body_bytes=_size(options["max_body_size"], "--max-body-size", _MAX_BODY_BYTES),
            max_bodies_bytes=_size(options["max_bodies_size"], "--max-bodies-size"),
            max_connections=options["max_connections"],
            headers_s=options["header_timeout"],
            body_s=options["body_timeout"],
            keep_alive_s=options["idle_timeout"],
            send_s=options["send_timeout"],
            **heads,
        ),
        requests=RequestLimits.of(limits),
        process=ProcessSettings(start_s=options["start_timeout"], hang_s=options["hang_timeout"]),
        drain_s=options["drain_timeout"],
        health_s=options["health_timeout"],
        keep_alive_s=options["stream_keep_alive"],
        thinking_budget=options["thinking_budget"],
        loop_guard=options["loop_guard"],
        cache_turns=options["cache_turns"],
    )


_HEADS = {
    "request_line_bytes": "max_request_line_bytes",
    "header_bytes": "max_header_bytes",
    "headers": "max_headers",
    "chunks": "max_chunks",
}  # of connections; the others are of what a request asks for


def _limits(given: Sequence[str]) -> dict[str, int]:
    """Limits by name, from NAME=NUMBER."""
    found: dict[str, int] = {}
    for one in given:
        given_name, _, number = one.partition("=")
        name = given_name.replace("-", "_")
        if not number.isdecimal() or len(number) > _MAX_DIGITS or (name in _HEADS and not int(number)):
            raise typer.BadParameter(f"{one!r:.40} is no limit; write NAME=NUMBER, like n=4", param_hint="--limit")
        found[name] = int(number)
    return found


_SAME = (
    *("model", "revision", "device", "quantization", "threads", "max_num_seqs", "max_model_len"),
    *("max_num_batched_tokens", "max_num_waiting", "max_num_queued_tokens", "kv_cache_dtype"),
)


def _spec(options: dict[str, Any]) -> dict[str, Any]:
    memory, folder = options["kv_cache_memory"], options["cache_dir"]
    return {name: options[name] for name in _SAME} | {
        "dtype": options["dtype"].value,
        "kv_cache_memory": None if memory is None else _size(memory, "--kv-cache-memory"),
        "cache_dir": None if folder is None else str(folder),
        "cache_dir_bytes": _size(options["cache_dir_size"], "--cache-dir-size"),
        "queue_s": options["queue_timeout"],
        "no_progress_s": options["progress_timeout"],
        "total_s": options["total_timeout"],
        "grammar_s": options["grammar_timeout"],
        "grammar_cache_bytes": _size(options["grammar_cache_size"], "--grammar-cache-size"),
        "stream_interval_s": options["stream_interval"],
        "lora": tuple(options["lora"] or ()),
    }


_SIZE = re.compile(r"(\d{1,12}(?:\.\d{1,6})?) ?([KMGT]?)(I?)B?", re.IGNORECASE)


def _size(text: str, option: str, most: int = 2**60) -> int:
    """Bytes; the server's process loads no torch, so the parser of weights' sizes is not taken."""
    match = _SIZE.fullmatch(text.strip())
    size = 0
    if match is not None:
        number, letter, binary = match.groups()
        size = int(float(number) * (1024 if binary else 1000) ** " KMGT".index(letter.upper() or " "))
    if not 1 <= size <= most:
        raise typer.BadParameter(f"{text!r:.40} is no size from 1B to {most}B; write it like 4GiB", param_hint=option)
    return size
