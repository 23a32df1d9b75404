"""What is said where the kernels were not built."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import seed_oss.ops.native
from seed_oss.cli.doctor import _native, _problems  # pyright: ignore[reportPrivateUsage]
from seed_oss.errors import InputError
from seed_oss.ops.native import INSTRUCTION_SETS


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The module that finds the kernels, where there are none."""
    module = sys.modules[seed_oss.ops.native.why_not.__module__]
    monkeypatch.setattr(module, "_path", lambda: None)
    module.library.cache_clear()
    yield module
    module.library.cache_clear()


def test_the_remedy_is_a_whole_command(monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules[seed_oss.ops.native.why_not.__module__]
    monkeypatch.setattr(module, "_path", lambda: None)
    monkeypatch.setattr(module, "library", lambda: None)
    monkeypatch.delenv("SEED_OSS_OPS", raising=False)
    reason = module.why_not()
    assert reason is not None
    assert reason.endswith("pip install --force-reinstall --no-deps seed-oss")


@pytest.mark.parametrize("wanted", INSTRUCTION_SETS)
def test_instructions_that_were_asked_for_are_missed(
    without: ModuleType, monkeypatch: pytest.MonkeyPatch, wanted: str
) -> None:
    monkeypatch.setenv("SEED_OSS_OPS", wanted)
    with pytest.raises(InputError, match=rf"SEED_OSS_OPS is '{wanted}'.*not built.*pip install .*or unset it"):
        without.library()
    with pytest.raises(InputError, match="SEED_OSS_OPS"):
        without.why_not()


def test_so_are_those_of_another_build(without: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "_kernels.so").write_bytes(b"of another system")
    monkeypatch.setattr(without, "_path", lambda: tmp_path / "_kernels.so")
    monkeypatch.setenv("SEED_OSS_OPS", "avx2")
    with pytest.raises(InputError, match="built for another version or system; install the package again"):
        without.library()


@pytest.mark.parametrize("wanted", ["reference", None])
def test_nothing_is_missed_where_none_were_asked_for(
    without: ModuleType, monkeypatch: pytest.MonkeyPatch, wanted: str | None
) -> None:
    monkeypatch.delenv("SEED_OSS_OPS", raising=False)
    if wanted is not None:
        monkeypatch.setenv("SEED_OSS_OPS", wanted)
    assert without.library() is None


def test_doctor_says_so_and_goes_on(without: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEED_OSS_OPS", "avx2")
    assert _native().startswith("wrong: SEED_OSS_OPS is 'avx2'")
    assert any("not built" in problem for problem in _problems(sys.modules["torch"]))
