"""The endpoints of a model, and what stands around them."""

import os
import secrets
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from starlette.middleware.cors import CORSMiddleware

from seed_oss.engine.client import EngineClient
from seed_oss.errors import InputError, MissingFileError
from seed_oss.files.kept_secret import SECRET_LEN, kept_secret
from seed_oss.server.asgi import App
from seed_oss.server.auth import OPEN_PATHS, ApiKeys, Gate, local_hosts
from seed_oss.server.metrics import EngineView, Metrics
from seed_oss.server.operations import Operations, Phase
from seed_oss.server.page_files import read_page
from seed_oss.server.request_log import JsonLog, RequestLog
from seed_oss.server.settings import ServeSettings

SECRET_FILE = "namespace.secret"
_HEADERS = ("authorization", "content-type", "x-api-key", "x-request-id", "anthropic-version")


def api_application(client: EngineClient, settings: ServeSettings) -> App:
    """The endpoints, with tokenizer and configuration of the model; its weights are the engine's.

    Raises:
        SeedOssError: the model's files cannot be had or used, or a setting is not for this model.
    """
    from seed_oss.chat.budget import ThinkingBudget
    from seed_oss.errors import ConfigError
    from seed_oss.server.app import ApiSettings, create_app
    from seed_oss.server.texts import Texts

    api = ApiSettings(
        keep_alive_seconds=settings.keep_alive_s,
        thinking_budget=ThinkingBudget(settings.thinking_budget),
        loop_guard=settings.loop_guard,
        cache_turns=settings.cache_turns,
        limits=settings.requests,
    )
    served = _served_model(settings)
    if settings.thinking_budget and settings.thinking_budget > 0 and not Texts(served.tokenizer).thinks:
        raise ConfigError("--thinking-budget is given, and the model has no markers of thinking; leave it out")
    app: Any = create_app(client, served, api)
    return app


def _served_model(settings: ServeSettings) -> Any:
    from seed_oss.chat.tokenizer import SeedOssTokenizer
    from seed_oss.config import SeedOssConfig
    from seed_oss.server.app import ServedModel

    spec = settings.spec
    config = SeedOssConfig.from_pretrained(spec.model, revision=spec.revision)
    tokenizer = SeedOssTokenizer.from_pretrained(spec.model, revision=spec.revision)
    if tokenizer.chat_template:
        tokenizer.prepare_chat_template()  # what renders foreign templates starts while the weights load
    return ServedModel(
        names=served_names(settings),
        tokenizer=tokenizer,
        context_length=spec.max_model_len or config.max_position_embeddings,
        generation=_generation_config(settings),
        created=int(time.time()),
        labels=tuple(str(config.id2label[index]) for index in sorted(config.id2label)),
    )


def _generation_config(settings: ServeSettings) -> Any:
    from seed_oss.config import GenerationConfig

    try:
        return GenerationConfig.from_pretrained(settings.spec.model, revision=settings.spec.revision)
    except MissingFileError:
        return None


def served_names(settings: ServeSettings) -> tuple[str, ...]:
    """What requests may call the model itself.

    Raises:
        InputError: an adapter has a name that cannot be, or one of these.
    """
    names = settings.names or (model_name(settings.spec.model),)
    taken = next((name for name in settings.spec.lora_folders if name in names), None)
    if taken is not None:
        raise InputError(f"--lora names {taken!r}, which is a name of the model; give the adapter another one")
    return names


def model_name(model: str) -> str:
    """What a model is called that was given no name: a hub id as it is, of a path the last part, links not followed."""
    if not os.path.exists(model):  # noqa: PTH110 - Path's raises for a name that is too long
        return model
    return Path(os.path.normpath(Path(model).absolute())).name or "model"


def surrounded(
    app: App, settings: ServeSettings, engine: EngineView, metrics: Metrics, phase: Phase, log: JsonLog
) -> App:
    """An application behind health and metrics, keys, CORS, and the log, from inside to outside."""
    inner: App = Operations(app, engine, metrics, phase, settings.health_s)
    keys = ApiKeys(settings.keys, namespace_secret(settings.spec.cache_dir)) if settings.keys else None
    hosts = None if settings.allow_unauthenticated else local_hosts(settings.host, settings.allowed_hosts)
    inner = Gate(inner, keys, hosts, settings.origins, OPEN_PATHS | read_page().keys())
    if settings.origins:
        inner = _with_cors(inner, settings)
    return RequestLog(inner, log, metrics.observe_http)


def _with_cors(app: App, settings: ServeSettings) -> App:
    inner: Any = app
    outer: Any = CORSMiddleware(
        inner,
        allow_origins=list(settings.origins),
        allow_methods=["GET", "POST", "DELETE"],
        allow_headers=list(_HEADERS),
        expose_headers=["x-request-id", "retry-after"],
    )
    return outer


def namespace_secret(cache_dir: str | None) -> bytes:
    """What namespaces are keyed with: random, or where cached prompts outlive the process, kept beside them.

    Args:
        cache_dir: the folder of cached prompts, or None.

    Raises:
        ConfigError: the folder cannot be used, others may write in it, or may read the secret.
    """
    if cache_dir is None:
        return secrets.token_bytes(SECRET_LEN)
    folder = Path(cache_dir)
    _remove_cut(folder / SECRET_FILE)
    return kept_secret(folder, SECRET_FILE)


def _remove_cut(file: Path) -> None:
    """A file that is cut short is made anew: only cached prompts are lost."""
    with suppress(OSError):
        if file.is_file() and file.stat().st_size != SECRET_LEN:
            file.unlink()
