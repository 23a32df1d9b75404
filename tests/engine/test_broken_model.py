"""Steps that fail: through one request's fault it alone ends; where everything fails the engine does."""

from collections.abc import Sequence

import pytest
import torch

from seed_oss import SamplingParams, SeedOssForCausalLM
from seed_oss.engine.batch import ScheduledBatch
from seed_oss.engine.build import LoadedModel, build_core
from seed_oss.engine.core import EngineCore
from seed_oss.engine.messages import Ended, Event, Submit
from seed_oss.engine.spec import EngineSpec
from seed_oss.errors import EngineError
from tests.factory import tiny_model

POISON = 159
PARAMS = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True, bad_words_ids=[[POISON]])


class Failing:
    """Stands before a model's forward: it fails at the poison, or from now on at everything."""

    def __init__(self, core: EngineCore) -> None:
        self.is_broken, self.num_failed = False, 0
        model = core._stepper._model
        self._run, model.run = model.run, self.run  # type: ignore[method-assign]

    def run(self, batch: ScheduledBatch, total_lens: Sequence[int]) -> torch.Tensor:
        """See PackedModel."""
        if self.is_broken or any(POISON in row.token_ids for row in batch.rows):
            self.num_failed += 1
            raise RuntimeError("as told")
        return self._run(batch, total_lens)


def made() -> tuple[EngineCore, Failing]:
    model = tiny_model(SeedOssForCausalLM)
    core = build_core(EngineSpec("(loaded)", max_num_seqs=8, max_model_len=64), LoadedModel(model, None))
    return core, Failing(core)


def ends(core: EngineCore) -> dict[str, str]:
    """How each request ended."""
    events: list[Event] = []
    while core.has_work:
        events += core.step()
    return {one.request_id: one.reason for one in events if isinstance(one, Ended)}


def test_a_request_that_breaks_steps_costs_itself() -> None:
    core, _ = made()
    for name, token in (("a", 5), ("b", POISON), ("c", 7), ("d", POISON)):
        core.submit(Submit(name, (token, 9), PARAMS))
    assert ends(core) == {"a": "length", "b": "error", "c": "length", "d": "error"}


@pytest.mark.parametrize(("num_rows", "num_failed"), [(1, 2), (2, 3), (8, 5)])
def test_a_model_that_fails_at_everything_ends_the_engine_and_blames_nobody(num_rows: int, num_failed: int) -> None:
    core, failing = made()
    for number in range(num_rows):
        core.submit(Submit(str(number), (5 + number, 9), PARAMS))
    core.step()
    failing.is_broken = True
    with pytest.raises(EngineError, match="restart"):
        ends(core)
    assert failing.num_failed == num_failed  # halves, and the token that nobody sent
    assert core.stats().get("total_ended_error", 0.0) <= 1.0
