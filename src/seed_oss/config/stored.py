"""Configs as files: found, read strictly, and replaced in one step."""

import os
import warnings
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self, overload

from seed_oss.config.base import FieldsBase, check_keys, named
from seed_oss.files import gguf_file, gguf_texts, parse_json, read_json, resolve_model, write_model_file

_HUB_ARGUMENTS = ("revision", "cache_dir", "token", "local_files_only", "subfolder")


class StoredConfig(FieldsBase):
    """A config that is one JSON file of a model folder."""

    @classmethod
    @abstractmethod
    def _from_content(cls, content: dict[str, Any], kwargs: dict[str, Any]) -> tuple[Self, dict[str, Any]]:
        """A config from the content of a file and fields that replace it; with the kwargs that are no fields."""

    @overload
    @classmethod
    def from_dict(
        cls, config_dict: Mapping[str, Any], *, return_unused_kwargs: Literal[False] = False, **kwargs: Any
    ) -> Self: ...
    @overload
    @classmethod
    def from_dict(
        cls, config_dict: Mapping[str, Any], *, return_unused_kwargs: bool, **kwargs: Any
    ) -> Self | tuple[Self, dict[str, Any]]: ...
    @classmethod
    def from_dict(
        cls, config_dict: Mapping[str, Any], *, return_unused_kwargs: bool = False, **kwargs: Any
    ) -> Self | tuple[Self, dict[str, Any]]:
        """Make a config from the content of its file.

        Args:
            config_dict: the content; it is not changed. A model config may be in the 4.x or the 5.x form.
            return_unused_kwargs: return `(config, unused)`, where unused are the kwargs that are no fields; otherwise
                they are named in one warning.
            kwargs: fields that replace those of config_dict.

        Raises:
            ConfigError: a wrong field.
        """
        config, unused = cls._from_content(check_keys(cls.file_name, config_dict), kwargs)
        return _result(config, unused, return_unused_kwargs)

    @overload
    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        return_unused_kwargs: Literal[False] = False,
        **kwargs: Any,
    ) -> Self: ...
    @overload
    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], *, return_unused_kwargs: bool, **kwargs: Any
    ) -> Self | tuple[Self, dict[str, Any]]: ...
    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        return_unused_kwargs: bool = False,
        **kwargs: Any,
    ) -> Self | tuple[Self, dict[str, Any]]:
        """Read the config of a model.

        Args:
            pretrained_model_name_or_path: model folder, hub id, named model ("demo"), a GGUF file, or the JSON
                file itself.
            return_unused_kwargs: return `(config, unused)`, where unused are the kwargs that are no fields; otherwise
                they are named in one warning.
            kwargs: where to look (revision, cache_dir, token, local_files_only, subfolder), and fields that replace
                those of the file.

        Raises:
            ConfigError: a wrong field.
            MissingFileError: no such model, or it has no such file.
            HubError: the hub could not be reached.
            CheckpointError: the file is not acceptable JSON.
        """
        if kwargs.pop("trust_remote_code", False):
            warnings.warn("trust_remote_code=True has no effect: no code of a model is ever run", stacklevel=2)
        where = {key: kwargs.pop(key) for key in _HUB_ARGUMENTS if key in kwargs}
        content = _load(pretrained_model_name_or_path, cls.file_name, where)
        config, unused = cls._from_content(content, kwargs)
        config._name_or_path = os.fspath(pretrained_model_name_or_path)
        return _result(config, unused, return_unused_kwargs)

    def save_pretrained(self, save_directory: str | os.PathLike[str]) -> None:
        """Write the config's file into a folder; the old file stays whole until the new one is.

        Args:
            save_directory: the folder; made if it is missing.

        Raises:
            ConfigError: a kept key holds something that JSON cannot, or fields of a model config contradict each other.
            CheckpointError: a kept key holds something that no reader accepts, such as a number of 65 digits.
            InputError: the folder is a file, or another save into it is running.
        """
        self._check_before_saving()
        content = self.to_json_string()
        parse_json(content, source=self.file_name)
        write_model_file(Path(save_directory), self.file_name, content.encode("utf-8"))

    @abstractmethod
    def _check_before_saving(self) -> None:
        """Refuse to write what could not be read."""


def _result(config: Any, unused: dict[str, Any], return_unused_kwargs: bool) -> Any:
    if return_unused_kwargs:
        return config, unused
    if unused:
        warnings.warn(f"{named(unused)}: no such config fields, ignored; check the spelling", stacklevel=3)
    return config


def _load(path_or_id: str | os.PathLike[str], file_name: str, where: dict[str, Any]) -> dict[str, Any]:
    path = Path(path_or_id)
    if path.suffix == ".json" and path.is_file():
        return read_json(path.parent, path.name)
    file = gguf_file(path_or_id)
    if file is not None:
        return parse_json(gguf_texts(file, [file_name])[file_name], source=f"{file_name} of {path}")
    return read_json(resolve_model(path_or_id, patterns=[file_name], **where), file_name)
