"""What was done to a quantized model, tensor by tensor, as `quantization_config` of its config.json says it.

    {"format": "seed_oss", "version": 1, "packing": 1, "scheme": "int4", "is_calibrated": false,
     "weights": {"bits": 4, "group_size": 32, "zero": "point", "param_dtype": "float16"},
     "modules": {"lm_head": {"bits": 8, ...}},             those that are stored otherwise than `weights` says
     "kept": {"score": "why it is stored as it is"},
     "shapes": {"q_proj": [10240, 5120], ...}}             by the last part of a name: all layers are alike

There is no `quant_method` in it on purpose: transformers skips a method that it does not know and goes on with random
weights, but stops where there is none.

8-bit floating point has a record of its own, which readers of version 1 refuse by its version:

    {"format": "seed_oss", "version": 2, "scheme": "fp8", "numbers": "float8_e4m3fn",
     "kept": {"lm_head": "why it is stored as it is"}, "shapes": {"q_proj": [10240, 5120], ...}}
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from seed_oss.errors import ConfigError, InputError, UnsupportedModelError
from seed_oss.files.names import short
from seed_oss.ops.grouped_weight import QuantFormat
from seed_oss.ops.packing import PACKING_VERSION
from seed_oss.quant.schemes import FLOAT8_SCHEME

FORMAT_NAME = "seed_oss"
FORMAT_VERSION = 1
FLOAT8_VERSION = 2
FLOAT8_NUMBERS = "float8_e4m3fn"
_KEYS = {"format", "version", "packing", "scheme", "is_calibrated", "weights", "modules", "kept", "shapes"}
_FLOAT8_KEYS = {"format", "version", "scheme", "numbers", "kept", "shapes"}
_FORMAT_KEYS = {"bits", "group_size", "zero", "param_dtype"}
_MAX_ENTRIES = 16_384
_MAX_TEXT_LEN = 200
_MAX_SIZE = 2**40
_WHERE = "quantization_config"


@dataclass(frozen=True)
class QuantizationRecord:
    """What the tensors of a model are.

    Attributes:
        scheme: the name of the scheme, or of the format that a model came from.
        is_calibrated: calibration text was used.
        weights: the format of every quantized module that `modules` does not name.
        modules: module name to format, where it is another one.
        kept: module name to the reason why it is not quantized.
        shapes: last part of a module's name to (rows, columns).
    """

    scheme: str
    weights: QuantFormat
    modules: Mapping[str, QuantFormat] = field(default_factory=dict)
    kept: Mapping[str, str] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    is_calibrated: bool = False

    @classmethod
    def of(
        cls,
        scheme: str,
        formats: Mapping[str, QuantFormat],
        shapes: Mapping[str, tuple[int, int]],
        kept: Mapping[str, str],
        *,
        is_calibrated: bool = False,
    ) -> "QuantizationRecord":
        """The record of what modules have become.

        Args:
            scheme: a name.
            formats: module name to format, of all quantized modules; at least one.
            shapes: module name to (rows, columns) of at least these.
            kept: module name to reason.
            is_calibrated: calibration text was used.
        """
        usual = Counter(formats.values()).most_common(1)[0][0]
        others = {name: format for name, format in formats.items() if format != usual}
        by_part = {name.rsplit(".", 1)[-1]: shapes[name] for name in formats}
        return cls(scheme, usual, others, dict(kept), by_part, is_calibrated)

    def format_of(self, module: str) -> QuantFormat:
        """The format of a quantized module."""
        return self.modules.get(module, self.weights)

    def to_config(self) -> dict[str, Any]:
        """As config.json holds it."""
        return {
            "format": FORMAT_NAME,
            "version": FORMAT_VERSION,
            "packing": PACKING_VERSION,
            "scheme": self.scheme,
            "is_calibrated": self.is_calibrated,
            "weights": _format_to_dict(self.weights),
            "modules": {name: _format_to_dict(format) for name, format in self.modules.items()},
            "kept": dict(self.kept),
            "shapes": {name: list(shape) for name, shape in self.shapes.items()},
        }

    @classmethod
    def from_config(cls, content: object) -> "QuantizationRecord":
        """Read it from config.json.

        Raises:
            ConfigError: a field of a wrong type, beyond its bounds, missing or unknown.
            UnsupportedModelError: another version.
        """
        fields = _mapping(content, _WHERE)
        _check_version(fields, "version", FORMAT_VERSION)
        _check_version(fields, "packing", PACKING_VERSION)
        _check_names(fields, _KEYS, _WHERE)
        is_calibrated = fields["is_calibrated"]
        if not isinstance(is_calibrated, bool):
            raise _wrong("is_calibrated", is_calibrated, "true or false")
        modules = _entries(fields["modules"], "modules")
        return cls(
            _text("scheme", fields["scheme"]),
            _format_from_dict(fields["weights"], "weights"),
            {name: _format_from_dict(value, f"modules.{short(name)}") for name, value in modules.items()},
            _kept(fields),
            _shapes(fields),
            is_calibrated,
        )


@dataclass(frozen=True)
class Float8Record:
    """What the tensors of a model in 8-bit floating point are.

    Attributes:
        kept: module name to the reason why it is stored as it is.
        shapes: last part of a module's name to (rows, columns).
    """

    kept: Mapping[str, str] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def scheme(self) -> str:
        """Its name."""
        return FLOAT8_SCHEME.name

    def to_config(self) -> dict[str, Any]:
        """As config.json holds it."""
        return {
            "format": FORMAT_NAME,
            "version": FLOAT8_VERSION,
            "scheme": self.scheme,
            "numbers": FLOAT8_NUMBERS,
            "kept": dict(self.kept),
            "shapes": {name: list(shape) for name, shape in self.shapes.items()},
        }

    @classmethod
    def from_config(cls, content: object) -> "Float8Record":
        """Read it from config.json.

        Raises:
            ConfigError: a field of a wrong type, beyond its bounds, missing or unknown.
            UnsupportedModelError: another version.
        """
        fields = _mapping(content, _WHERE)
        _check_version(fields, "version", FLOAT8_VERSION)
        _check_names(fields, _FLOAT8_KEYS, _WHERE)
        if fields["numbers"] != FLOAT8_NUMBERS:
            raise _wrong("numbers", fields["numbers"], FLOAT8_NUMBERS)
        return cls(_kept(fields), _shapes(fields))


def read_record(content: object) -> QuantizationRecord | Float8Record:
    """The record of one of our formats, by its scheme.

    Raises:
        ConfigError: a field of a wrong type, beyond its bounds, missing or unknown.
        UnsupportedModelError: another version.
    """
    fields = _mapping(content, _WHERE)
    if fields.get("scheme") == FLOAT8_SCHEME.name:
        return Float8Record.from_config(fields)
    return QuantizationRecord.from_config(fields)


def is_own_format(content: object) -> bool:
    """Whether a `quantization_config` is one of ours."""
    return isinstance(content, Mapping) and cast(Mapping[str, Any], content).get("format") == FORMAT_NAME


def _format_to_dict(format: QuantFormat) -> dict[str, Any]:
    return {name: getattr(format, name) for name in ("bits", "group_size", "zero", "param_dtype")}


def _format_from_dict(value: object, name: str) -> QuantFormat:
    fields = _mapping(value, f"{_WHERE}.{name}")
    _check_names(fields, _FORMAT_KEYS, f"{_WHERE}.{name}")
    bits, zero, param_dtype = fields["bits"], fields["zero"], fields["param_dtype"]
    if isinstance(bits, bool) or not isinstance(bits, int):
        raise _wrong(f"{name}.bits", bits, "4 or 8")
    if not isinstance(zero, str) or not isinstance(param_dtype, str):
        raise _wrong(f"{name}.zero or {name}.param_dtype", [zero, param_dtype], "names")
    group_size = fields["group_size"]
    if isinstance(group_size, bool) or not isinstance(group_size, int) or not 0 < group_size <= _MAX_SIZE:
        raise _wrong(f"{name}.group_size", group_size, f"an integer from 4 to {_MAX_SIZE}")
    try:
        return QuantFormat(bits, group_size, cast(Any, zero), param_dtype)
    except InputError as error:
        raise ConfigError(f"{_WHERE}.{name}: {error}") from None


def _check_version(fields: Mapping[str, Any], name: str, known: int) -> None:
    version = fields.get(name)
    if isinstance(version, bool) or not isinstance(version, int):
        raise _wrong(name, version, f"an integer; this release reads {known}")
    if version != known:
        shown = version if 0 <= version < 10**6 else "a huge integer"
        raise UnsupportedModelError(
            f"{_WHERE}.{name} is {shown}; this release reads {known}. Update seed-oss, or quantize the original again"
        )


def _mapping(value: object, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where} is a {type(value).__name__}; it must be an object")
    return cast(Mapping[str, Any], value)


def _check_names(fields: Mapping[str, Any], wanted: set[str], where: str) -> None:
    missing, unknown = wanted - fields.keys(), fields.keys() - wanted
    if missing or unknown:
        what = f"has no {min(missing)}" if missing else f"has an unknown field {short(min(unknown))}"
        raise ConfigError(f"{where} {what}; its fields are {', '.join(sorted(wanted))}")


def _kept(fields: Mapping[str, Any]) -> dict[str, str]:
    entries = _entries(fields["kept"], "kept")
    return {name: _text(f"kept.{short(name)}", value) for name, value in entries.items()}


def _shapes(fields: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    return {name: _shape(name, value) for name, value in _entries(fields["shapes"], "shapes").items()}


def _entries(value: object, name: str) -> Mapping[str, Any]:
    entries = _mapping(value, f"{_WHERE}.{name}")
    if len(entries) > _MAX_ENTRIES:
        raise ConfigError(f"{_WHERE}.{name} has {len(entries)} entries; the limit is {_MAX_ENTRIES}")
    return entries


def _shape(name: str, value: object) -> tuple[int, int]:
    sizes = cast(list[object], value) if isinstance(value, list) else []
    whole = [size for size in sizes if isinstance(size, int) and not isinstance(size, bool) and 0 < size <= _MAX_SIZE]
    if len(sizes) != 2 or len(whole) != 2:
        raise _wrong(f"shapes.{short(name)}", value, "[rows, columns]")
    return whole[0], whole[1]


def _text(name: str, value: object) -> str:
    if not isinstance(value, str) or len(value) > _MAX_TEXT_LEN:
        raise _wrong(name, value, f"a text of at most {_MAX_TEXT_LEN} characters")
    return value


def _wrong(name: str, value: object, wanted: str) -> ConfigError:
    return ConfigError(f"{_WHERE}.{name} is {short(value)}; it must be {wanted}")
