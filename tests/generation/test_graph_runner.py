"""Decoding through a graph: the tokens of plain steps, from a step border on, and plain steps where it cannot be."""

import inspect
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

import seed_oss.generation.graph_runner as graph_runner
from seed_oss import SeedOssForCausalLM, StaticCache
from seed_oss.errors import NumericalError
from seed_oss.generation.columns import Columns
from seed_oss.generation.graph_runner import GraphRunner
from seed_oss.generation.prompt import Prompt
from seed_oss.generation.runner import ForwardOptions, ModelRunner
from seed_oss.generation.step_graph import StepGraph, graph_maker
from seed_oss.ops.triton import Builder
from tests.factory import random_ids, tiny_model
from tests.generation.recorded_graph import RecordedGraph, RefusedGraph

IDS = random_ids(3, 7)
MASK = torch.tensor([[1] * 7, [0] * 3 + [1] * 4, [0] * 6 + [1]])
ROPES: list[dict[str, Any]] = [
    {},
    {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}, "max_position_embeddings": 12},
]


def make_model(**overrides: Any) -> Any:
    model = tiny_model(SeedOssForCausalLM, **overrides)
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 1
    return model


class Made:
    """Remembers the graphs that were made."""

    def __init__(self, kind: type[StepGraph]) -> None:
        self.kind, self.graphs = kind, list[Any]()

    def __call__(self, device: torch.device) -> Callable[[], StepGraph]:
        def make() -> StepGraph:
            self.graphs.append(self.kind())
            return self.graphs[-1]

        return make


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Made:
    made = Made(RecordedGraph)
    monkeypatch.setattr(graph_runner, "graph_maker", made)
    monkeypatch.setattr(graph_runner, "MIN_REPLAYS", 1)
    return made


def without_graphs(monkeypatch: pytest.MonkeyPatch, call: Callable[[], Any]) -> Any:
    with monkeypatch.context() as patch:
        patch.setattr(graph_runner, "graph_maker", graph_maker)
        return call()


@pytest.mark.parametrize("overrides", ROPES, ids=["default", "dynamic"])
@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"attention_mask": MASK},
        {"attention_mask": MASK, "do_sample": True, "seed": 3, "top_k": 12, "num_return_sequences": 2},
        {"attention_mask": MASK, "repetition_penalty": 1.3, "prefill_chunk_size": 3},
    ],
    ids=["plain", "padded", "sampled", "chunked"],
)
def test_same_tokens(graphs: Made, monkeypatch: pytest.MonkeyPatch, overrides: Any, attn: str, settings: Any) -> None:
    if overrides and "prefill_chunk_size" in settings:
        pytest.skip("frequencies that follow the length of a forward differ between chunks and the whole")
    model = make_model(attn_implementation=attn, **overrides)

    def run() -> Tensor:
        with pytest.warns(UserWarning, match="positions go beyond") if overrides else nullcontext():
            return model.generate(IDS, max_new_tokens=9, **settings)

    wanted = without_graphs(monkeypatch, run)
    assert not graphs.graphs
    assert torch.equal(run(), wanted)
    assert graphs.graphs[0].num_replays == 7  # of 8 steps behind the prompt the first one is plain


def test_rows_that_end_and_stop_early(graphs: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model()
    free = without_graphs(monkeypatch, lambda: model.generate(IDS, max_new_tokens=9))
    settings = {"max_new_tokens": 9, "eos_token_id": [int(free[0, 10]), int(free[1, 12]), int(free[2, 12])]}
    wanted = without_graphs(monkeypatch, lambda: model.generate(IDS, **settings))
    assert torch.equal(model.generate(IDS, **settings), wanted)
    assert graphs.graphs


def test_a_cache_of_the_caller_goes_on(graphs: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the graph wrote is there, and the host knows how much it is."""
    model = make_model()
    whole = without_graphs(monkeypatch, lambda: model.generate(IDS, max_new_tokens=14))
    cache = StaticCache(model.config, max_cache_len=30)
    first = model.generate(IDS, past_key_values=cache, max_new_tokens=6)
    assert graphs.graphs[0].num_replays == 4
    assert cache.get_seq_length() == 7 + 5
    second = model.generate(first, past_key_values=cache, max_new_tokens=8)
    assert torch.equal(second, whole)


def test_a_step_runs_while_its_tokens_are_read(graphs: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless it would be one too many; and what nobody wanted leaves nothing in the cache."""
    model = make_model()
    free = without_graphs(monkeypatch, lambda: model.generate(IDS, max_new_tokens=9))
    replays: list[int] = []

    def watch(ids: Tensor, scores: Any) -> bool:
        replays.append(graphs.graphs[0].num_replays if graphs.graphs else 0)
        return ids.shape[1] == stop_at

    stop_at = 99
    assert torch.equal(model.generate(IDS, max_new_tokens=9, stopping_criteria=[watch]), free)
    assert replays == [0, 0, 2, 3, 4, 5, 6, 7, 7]
    stop_at = 12
    cache = StaticCache(model.config, max_cache_len=30)
    stopped = model.generate(IDS, past_key_values=cache, max_new_tokens=9, stopping_criteria=[watch])
    assert torch.equal(stopped, free[:, :12])
    assert cache.get_seq_length() == 11
    assert torch.equal(model.generate(stopped, past_key_values=cache, max_new_tokens=4), free)


def test_a_row_without_a_number_is_told(graphs: Made) -> None:
    model = make_model()
    model.generation_config.eos_token_id = 2

    def spoil(ids: Tensor, scores: Tensor) -> Tensor:
        return scores if ids.shape[1] < 11 else scores * float("nan")

    with pytest.raises(NumericalError, match="new token 5"):
        model.generate(IDS, max_new_tokens=9, min_new_tokens=9, logits_processor=[spoil])
    assert graphs.graphs[0].num_replays == 4


def test_what_is_returned_and_scores(graphs: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model()
    settings = {"max_new_tokens": 6, "return_dict_in_generate": True, "output_scores": True, "output_logits": True}

    def run(**more: Any) -> Any:
        return model.generate(IDS, **settings, **more)

    wanted = without_graphs(monkeypatch, run)
    run()
    assert not graphs.graphs  # the caller gets a cache that grows, as without graphs
    out = run(cache_implementation="static")
    assert graphs.graphs
    for name in ("scores", "logits"):
        for one, other in zip(getattr(out, name), getattr(wanted, name), strict=True):
            assert torch.allclose(one, other, atol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {"num_beams": 2},
        {"prompt_lookup_num_tokens": 2},
        {"use_cache": False},
        {"cache_implementation": "dynamic"},
        {"cache_implementation": "quantized"},
        {"cache_implementation": "static", "return_dict_in_generate": True, "output_hidden_states": True},
    ],
    ids=str,
)
def test_what_is_no_graph(graphs: Made, settings: Any) -> None:
    make_model().generate(IDS, max_new_tokens=5, **settings)
    assert not graphs.graphs


def test_no_graph_for_few_steps(graphs: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_runner, "MIN_REPLAYS", 6)
    for max_new, num_graphs in ((7, 0), (8, 1)):  # behind the prompt's token a plain step, then 5 or 6
        make_model().generate(IDS, max_new_tokens=max_new)
        assert len(graphs.graphs) == num_graphs


def test_no_fixed_size_where_it_takes_too_much(graphs: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model()
    config = model.config
    needed = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * 4 * 3 * (7 + 5 - 1)
    for free, expected in ((2 * needed, 1), (2 * needed - 1, 0)):
        graphs.graphs.clear()
        monkeypatch.setattr(graph_runner, "_free_bytes", lambda device, free=free: free)
        model.generate(IDS, max_new_tokens=5)
        assert len(graphs.graphs) == expected


def make_runner(model: Any, kind: type[StepGraph], kernels: Builder) -> GraphRunner:
    cache = StaticCache(model.config, max_cache_len=40)
    prompt = Prompt(IDS, None, MASK.bool(), (MASK.cumsum(-1) - 1).clamp(min=0), None, 0, IDS.shape[1])
    options = ForwardOptions(2**31, 1, {})
    return GraphRunner(ModelRunner(model, prompt, cache, options, 30), kind, 30, kernels)


def tokens_of(runner: GraphRunner, num_steps: int) -> list[list[int]]:
    """Greedy tokens of some steps."""
    ids, found = Columns(IDS, 30), list[list[int]]()
    with torch.no_grad():
        logits = runner.prefill().logits
        for _ in range(num_steps):
            tokens = logits[:, -1].argmax(-1)
            found.append(tokens.tolist())
            ids.append(tokens)
            logits = runner.step(tokens, ids, [False] * 3).logits
    return found


def test_takes_over_once_kernels_are_built_and_a_step_has_run_on_them() -> None:
    """The builder is busy for three steps; the fourth runs on the new kernels, and the fifth is the graph's."""
    model, future = make_model(), Future[None]()
    kernels, taken = Builder(lambda build: future), list[bool]()
    runner = make_runner(model, RecordedGraph, kernels)

    def watched(*args: Any, **kwargs: Any) -> Any:
        kernels.ready("norm", lambda: None)
        taken.append(runner.has_taken_over)
        if len(taken) == 4:  # the prompt and three steps
            future.set_result(None)
        return type(model).forward(model, *args, **kwargs)

    model.forward = watched
    found = tokens_of(runner, 8)
    assert taken == [False] * 6  # the prompt, four steps, and the capture
    assert runner.has_taken_over
    assert runner.why_not is None
    assert found == tokens_of(make_runner(make_model(), RefusedGraph, Builder()), 8)


def test_a_step_that_cannot_be_captured() -> None:
    model = make_model()
    runner = make_runner(model, RefusedGraph, Builder())
    wanted = tokens_of(make_runner(model, RecordedGraph, Builder()), 6)
    assert tokens_of(runner, 6) == wanted
    assert not runner.has_taken_over
    assert runner.why_not == "the step cannot be captured: operation not permitted when stream is capturing"
    assert runner.cache is not None
    assert runner.cache.get_seq_length() == 7 + 6


def test_a_step_that_waits_for_the_device_is_refused() -> None:
    model = make_model()
    plain = type(model).forward

    def waits(**inputs: Any) -> Any:
        bool((inputs["input_ids"] > 0).all())
        return plain(model, **inputs)

    model.forward = waits
    runner = make_runner(model, RecordedGraph, Builder())
    found = tokens_of(runner, 6)
    assert runner.why_not is not None
    assert "_local_scalar_dense" in runner.why_not
    assert found == tokens_of(make_runner(make_model(), RecordedGraph, Builder()), 6)


def test_what_a_cuda_graph_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The calls, on stand-ins; the names and arguments are torch's."""
    events: list[str] = []

    class Stand:
        def replay(self) -> None:
            events.append("replay")

    class Capture:
        def __init__(self, graph: Any, **options: Any) -> None:
            inspect.signature(original).bind(graph, **options)
            events.append(options["capture_error_mode"])

        def __enter__(self) -> None:
            events.append("begin")

        def __exit__(self, *_: Any) -> None:
            events.append("end")

    original = torch.cuda.graph
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Stand)
    monkeypatch.setattr(torch.cuda, "graph", Capture)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    make = graph_maker(torch.device("cuda", 0))
    assert make is not None
    assert graph_maker(torch.device("cpu")) is None
    graph, output = make(), torch.zeros(1)
    graph.capture(lambda: events.append("run") or output)
    assert graph.replay() is output
    assert events == ["thread_local", "begin", "run", "end", "replay"]
