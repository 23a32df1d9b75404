"""Every error seed_oss raises on purpose.

    SeedOssError
    ├── ConfigError          (ValueError)           a field of config.json or of a config object
    ├── InputError           (ValueError, TypeError) an argument of a call: shape, dtype, range, combination
    │   └── CacheFullError                          a fixed-size cache has no room for the tokens given
    ├── CheckpointError      (ValueError)           the content of a model file
    │   ├── UnsafeFileError                         a file name or kind that must not be opened
    │   └── UnsupportedModelError                   a well-formed file that holds something we do not implement
    ├── MissingFileError     (FileNotFoundError)    a model file or folder that is not there
    ├── HubError             (OSError)              the hub could not be reached or refused
    ├── TokenizerError       (ValueError)           tokenizer files, or ids and text given to a tokenizer
    ├── TemplateError        (ValueError)           a chat template, or messages it cannot render
    ├── NumericalError       (ArithmeticError)      NaN where numbers are needed
    ├── EngineError          (RuntimeError)         a request that the engine could not finish
    ├── StateError           (RuntimeError)         an object is no longer, or not yet, in a state to do this
    └── MissingExtraError    (ImportError)          an optional package; the message names the extra to install

A message says what was given, what is allowed, and what to do about it.
"""


class SeedOssError(Exception):
    """Root of every error that seed_oss raises on purpose."""


class ConfigError(SeedOssError, ValueError):
    """A configuration field has a wrong type, an impossible value, or is missing."""


class InputError(SeedOssError, ValueError, TypeError):
    """An argument has a wrong shape, dtype or value, or does not go with another one."""


class CacheFullError(InputError):
    """A fixed-size cache has no room for the tokens given."""


class CheckpointError(SeedOssError, ValueError):
    """A model file is truncated, inconsistent, or does not fit the model."""


class UnsafeFileError(CheckpointError):
    """A file name leaves the model folder, or names something other than a regular file."""


class UnsupportedModelError(CheckpointError):
    """A well-formed file that holds an architecture or format seed_oss does not implement."""


class MissingFileError(SeedOssError, FileNotFoundError):
    """A model file or folder is not there."""


class HubError(SeedOssError, OSError):
    """The model hub could not be reached, or refused the request."""


class TokenizerError(SeedOssError, ValueError):
    """Tokenizer files, text or ids that cannot be used."""


class TemplateError(SeedOssError, ValueError):
    """A chat template that cannot be rendered within its bounds."""


class NumericalError(SeedOssError, ArithmeticError):
    """NaN where numbers are needed."""


class EngineError(SeedOssError, RuntimeError):
    """A request was taken and could not be finished: its time was up, a step failed, or the engine ended."""


class StateError(SeedOssError, RuntimeError):
    """An object is no longer, or not yet, in a state to do what was asked."""


class MissingExtraError(SeedOssError, ImportError):
    """An optional package is missing; the message names the extra that brings it."""
