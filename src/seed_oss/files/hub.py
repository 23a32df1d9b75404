"""Download from the model hub: only the files that seed_oss reads, never code and never pickles.

huggingface_hub does the transfer, the cache and the locks. It is imported when a hub id is first used.
"""

import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from seed_oss.errors import HubError, InputError, MissingFileError, SeedOssError
from seed_oss.files.names import check_plain_name, short
from seed_oss.files.opening import model_file_exists
from seed_oss.files.weight_map import INDEX_FILE, SINGLE_FILE, read_index

# Small files that some part of seed_oss reads.
TEXT_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates/*.jinja",
)
_TEMPLATES = "additional_chat_templates/"  # the one folder below a checkpoint that belongs to it
_ALLOWED_SUFFIXES = (".json", ".safetensors", ".jinja", ".txt")
_REVISION = re.compile(r"[A-Za-z0-9][\w./+-]{0,199}", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class _Request:
    repo_id: str
    revision: str | None
    cache_dir: str | Path | None
    token: str | bool | None
    local_files_only: bool
    subfolder: str

    def in_words(self) -> str:
        where = f" at revision {self.revision!r}" if self.revision else ""
        return f"{self.repo_id!r}{where} on the hub"


def download_model(
    repo_id: str,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    subfolder: str = "",
    patterns: Sequence[str] | None = None,
) -> Path:
    """Download the files of a model into the hub cache, or find them there.

    Weights are asked for by exact names, read from the index first, so that other large files of the repository stay
    where they are; all files come from one commit.

    Args:
        repo_id: "organisation/name", already checked.
        revision: Branch, tag or commit; None means "main".
        cache_dir: Folder of the hub cache; None means huggingface_hub's own.
        token: Token for private models, or True for the stored one.
        local_files_only: Use the cache alone.
        subfolder: Folder of the repository that holds the files, already checked.
        patterns: Names of the files needed, wildcards allowed; None means all. One that matches
            "model.safetensors" asks for the weights, sharded or not.

    Returns:
        The snapshot folder (without the subfolder).

    Raises:
        MissingFileError: No such model, revision or file.
        HubError: The hub could not be reached or refused.
        InputError: A malformed revision or pattern.
    """
    if revision is not None and (not _REVISION.fullmatch(revision) or ".." in revision):
        raise InputError(f"revision {short(revision)} must be a branch, tag or commit name")
    request = _Request(repo_id, revision, cache_dir, token, local_files_only, subfolder)
    wanted = list(TEXT_FILES) if patterns is None else [_checked_pattern(pattern) for pattern in patterns]
    with_weights = patterns is None or any(fnmatch.fnmatchcase(SINGLE_FILE, pattern) for pattern in wanted)
    small = [
        pattern for pattern in wanted if not pattern.endswith(".safetensors") and not pattern.startswith(_TEMPLATES)
    ]
    templates = [pattern for pattern in wanted if pattern.startswith(_TEMPLATES)]
    snapshot = _fetch(request, [*small, INDEX_FILE] if with_weights else small, revision)
    commit = _commit_of(snapshot) or revision
    if with_weights:
        _fetch(request, _weight_files(snapshot / subfolder), commit)
    if templates:
        _fetch(request, templates, commit, inside=_TEMPLATES)
    _check_found(request, snapshot / subfolder, wanted)
    return snapshot


def _checked_pattern(pattern: str) -> str:
    # A wildcard stands for letters of a plain name, so that the rest of the pattern must be one.
    check_plain_name(pattern.removeprefix(_TEMPLATES).replace("*", "x"), where="pattern")
    if not pattern.endswith(_ALLOWED_SUFFIXES):
        raise InputError(f"pattern {short(pattern)} must end in one of {', '.join(_ALLOWED_SUFFIXES)}")
    return pattern


def _weight_files(folder: Path) -> list[str]:
    if model_file_exists(folder, INDEX_FILE):
        return sorted(set(read_index(folder).values()))
    return [SINGLE_FILE]


def _commit_of(snapshot: Path) -> str | None:
    return snapshot.name if _COMMIT.fullmatch(snapshot.name) else None


def _fetch(request: _Request, names: list[str], revision: str | None, *, inside: str = "") -> Path:
    from huggingface_hub import snapshot_download  # pyright: ignore[reportUnknownVariableType]
    from huggingface_hub.errors import HFValidationError

    prefix = f"{request.subfolder}/" if request.subfolder else ""
    try:
        return Path(
            snapshot_download(
                request.repo_id,
                revision=revision,
                cache_dir=request.cache_dir,
                token=request.token,
                local_files_only=request.local_files_only,
                library_name="seed_oss",
                allow_patterns=[prefix + name for name in names],
                # A wildcard of the patterns matches "/" too.
                ignore_patterns=[f"{prefix}{inside}*/*"],
            )
        )
    except HFValidationError as error:
        raise InputError(f"{request.repo_id!r} is not a valid hub id: {error}") from None
    except _transfer_errors() as error:
        raise _translated(error, request) from error


def _transfer_errors() -> tuple[type[Exception], ...]:
    """What a transfer may raise: system errors, and those of the HTTP package that this huggingface_hub uses.

    The built-in ones come up when something other than the hub answers, such as the login page of a network.
    """
    from huggingface_hub import errors

    transport = [base for base in errors.HfHubHTTPError.__bases__ if issubclass(base, Exception)]
    xet = getattr(errors, "XetDownloadError", OSError)
    return (OSError, *transport, xet, ValueError, KeyError, TypeError, AttributeError, AssertionError, RuntimeError)


def _translated(error: Exception, request: _Request) -> SeedOssError:
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        LocalTokenNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if isinstance(error, GatedRepoError):
        return HubError(
            f"access to {request.repo_id!r} is gated; accept its terms on its hub page, then give token=... or log in "
            "with `hf auth login`"
        )
    if isinstance(error, RepositoryNotFoundError):
        return MissingFileError(
            f"{request.repo_id!r} is not a folder here, and the hub knows no such model or hides it because it is "
            "private; check the spelling, or give token=... for a private one"
        )
    if isinstance(error, RevisionNotFoundError):
        return MissingFileError(f"{request.in_words()}: there is no such revision; give a branch, tag or commit")
    if isinstance(error, LocalTokenNotFoundError):
        return HubError("token=True needs a stored token and there is none; run `hf auth login` or give token=...")
    if isinstance(error, LocalEntryNotFoundError):
        return _not_in_cache(error, request)
    return HubError(f"download of {request.in_words()} failed: {_first_line(error)}; {_OFFLINE_HINT}")


_OFFLINE_HINT = (
    "what works offline: a local folder, a model that was downloaded completely before, and the name 'demo' once its "
    "package is installed"
)


def _not_in_cache(error: Exception, request: _Request) -> HubError:
    partly = hasattr(error, "snapshot_path")
    have = "only part of it is in the local cache" if partly else "it is not in the local cache"
    cause = error.__cause__
    if request.local_files_only or cause is None or type(cause).__name__ == "OfflineModeIsEnabled":
        why = "the network is off (local_files_only=True or HF_HUB_OFFLINE=1)"
    else:
        why = f"the hub could not be reached ({type(cause).__name__})"
    return HubError(f"{request.in_words()}: {why} and {have}; load it once with the network on. {_OFFLINE_HINT}")


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return (text.splitlines()[0] if text else type(error).__name__)[:200]


def _check_found(request: _Request, folder: Path, wanted: Sequence[str]) -> None:
    """A checkpoint without config.json is none; other files are reported where they are needed."""
    if "config.json" in wanted and not model_file_exists(folder, "config.json"):
        inside = f" in subfolder {request.subfolder!r}" if request.subfolder else ""
        raise MissingFileError(f"{request.in_words()} has no config.json{inside}; is it the right repository?")
