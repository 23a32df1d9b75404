"""What an engine says its weights are."""

from pathlib import Path

import pytest

from seed_oss.engine.build import build_core
from seed_oss.engine.spec import EngineSpec
from tests.cli.conftest import make_checkpoint


@pytest.mark.parametrize(
    ("quantization", "said"),
    [(None, "float32"), ("int4", "int4, computed in float32"), ("int8", "int8, computed in float32")],
)
def test_the_scheme_and_what_it_computes_in(quantization: str | None, said: str, tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path, head_dim=32, hidden_size=64, intermediate_size=128)
    spec = EngineSpec(str(folder), quantization=quantization, dtype="float32", max_model_len=64)
    assert build_core(spec).ready().dtype == said
