"""A runner on a mesh: what all ranks run is what the first one scheduled, and nothing comes out otherwise."""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.device_mesh import DeviceMesh

from seed_oss import SamplingParams
from seed_oss.engine.batch import RowKey, ScheduledBatch, ScheduledRow
from seed_oss.engine.build import build_core, build_follower
from seed_oss.engine.core import EngineCore
from seed_oss.engine.follower import follow
from seed_oss.engine.forward import RowTraits
from seed_oss.engine.gathered import Gathered
from seed_oss.engine.mesh import Ranks, batch_of, numbers_of
from seed_oss.engine.messages import Submit
from seed_oss.errors import ConfigError, StateError
from tests.engine.mesh_rank import BROKEN, PATIENCE, digest_of, loaded, mesh_of, spec
from tests.engine.processes import ROOT, environment
from tests.factory import random_ids
from tests.lora import saved

PROMPTS = [tuple(random_ids(length, seed=length).tolist()) for length in (3, 9, 20, 41)]
GREEDY = SamplingParams(temperature=0, max_tokens=8, min_tokens=8, logprobs=1, prompt_lookup_num_tokens=2)
NAMES = (None, "a", "b")


def answers(core: EngineCore, adapters: Sequence[str | None] = (None,)) -> list[Any]:
    """Tokens and log-probabilities of each prompt, run together."""
    submits = [
        Submit(f"{name}{number}", prompt, GREEDY, adapter=name)
        for name in adapters
        for number, prompt in enumerate(PROMPTS)
    ]
    found = {one.request_id: Gathered(one) for one in submits}
    for one in submits:
        core.submit(one)
    while core.has_work:
        for event in core.step():
            found[event.request_id].take(event)  # type: ignore[union-attr]
    return [(one.token_ids, one.logprobs_of(0)) for one in found.values()]


def test_batches_travel_as_numbers() -> None:
    rows = (
        ScheduledRow(RowKey("secret", 1), 0, (5, 6, 7), 0, (3, 1), False),
        ScheduledRow(RowKey("b", 0), 40, (9, 8), 1, (2, 4), True),
    )
    traits = [RowTraits(100, "b"), RowTraits(64)]
    batch, received = batch_of(numbers_of(ScheduledBatch(rows), traits, NAMES), NAMES)
    assert received == traits
    assert [(one.start, one.token_ids, one.num_drafts, one.block_ids, one.is_sampled) for one in batch.rows] == [
        (one.start, one.token_ids, one.num_drafts, one.block_ids, one.is_sampled) for one in rows
    ]
    assert [one.key for one in batch.rows] == [RowKey("", 0), RowKey("", 1)]  # nobody else needs names


def test_a_mesh_of_one(tmp_path: Path) -> None:
    expected = answers(build_core(spec(tmp_path), loaded()))
    with mesh_of(0, 1, tmp_path) as mesh:
        core = build_core(spec(tmp_path), loaded(), mesh=mesh)
        assert answers(core) == expected
        with pytest.raises(StateError, match="this rank schedules"):
            follow(build_follower(spec(tmp_path), loaded(), mesh=mesh))
        with pytest.raises(ConfigError, match="mesh has 2 dimensions"):
            build_core(spec(tmp_path), loaded(), mesh=DeviceMesh("cpu", [[0]]))
        with pytest.raises(ConfigError, match="mesh is of cpu, the model on meta"):
            Ranks(mesh, torch.device("meta"))
        core.close()
    with pytest.raises(StateError, match="call run"):
        follow(build_follower(spec(tmp_path), loaded(), mesh=None))  # type: ignore[arg-type]


def test_blocks_on_disk_are_for_one_rank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with mesh_of(0, 1, tmp_path) as mesh:
        monkeypatch.setattr(DeviceMesh, "size", lambda *_: 2)
        with pytest.raises(ConfigError, match="cache_dir is set, and mesh has 2 ranks"):
            build_core(replace(spec(tmp_path), cache_dir=str(tmp_path / "blocks")), loaded(), mesh=mesh)


@pytest.mark.parametrize("is_broken", [False, True], ids=["whole", "a rank that fails"])
def test_two_ranks(tmp_path: Path, is_broken: bool) -> None:
    saved(tmp_path / "lora", 1)
    if is_broken:
        (tmp_path / BROKEN).touch()
    names = (None, "tuned")
    expected = answers(build_core(spec(tmp_path), loaded()), names)
    command = [sys.executable, "-m", "tests.engine.mesh_rank", "1", "2", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment(), cwd=ROOT, text=True) as other:
        with mesh_of(0, 2, tmp_path) as mesh:
            core = build_core(spec(tmp_path), loaded(), mesh=mesh)
            assert answers(core, names) == expected
            assert (core.stats()["total_failed_steps"] > 0) == is_broken
            core.close()
            held = digest_of(core._stepper._model)  # type: ignore[arg-type]
            said, _ = other.communicate(timeout=PATIENCE.total_seconds())
            assert said == held or is_broken  # what a failed step wrote lies in blocks that nobody owns
        assert other.returncode == 0
