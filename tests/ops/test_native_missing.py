"""What is said where the kernels were not built."""

import sys

import pytest

import seed_oss.ops.native


def test_the_remedy_is_a_whole_command(monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules[seed_oss.ops.native.why_not.__module__]
    monkeypatch.setattr(module, "_path", lambda: None)
    monkeypatch.setattr(module, "library", lambda: None)
    monkeypatch.delenv("SEED_OSS_OPS", raising=False)
    reason = module.why_not()
    assert reason is not None
    assert reason.endswith("pip install --force-reinstall --no-deps seed-oss")
