"""A run of the benchmark: engines in their processes, trials in turn, limits beside them, one result."""

import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from seed_oss.bench import report
from seed_oss.bench.cpu_time import CpuTime, foreign_share, is_clean, read_cpu_time
from seed_oss.bench.engines import OWN_LLM, QUESTION, EngineSpec, Workshop, check_quantizations, check_stored, find_peer
from seed_oss.bench.options import BenchOptions, num_cpus
from seed_oss.bench.process import EngineProcess, environment_for
from seed_oss.bench.report import EngineResult, Limit
from seed_oss.bench.shapes import shape_config
from seed_oss.bench.starting import IMPORT_TORCH, first_token_command, seconds_to_first_byte
from seed_oss.bench.trials import Spread, Trial, Turn, collect, rounds, run_clean
from seed_oss.config import SeedOssConfig
from seed_oss.errors import SeedOssError, StateError
from seed_oss.files import gguf_file, resolve_model

Note = Callable[[str], None]
TEXT = (
    "The history of the steam engine begins in antiquity, and its improvement over three centuries changed how people "
    "worked, travelled and lived. Write down what you know about it, in order of time, with names and places. "
)
LIMITS_MODULE = "seed_oss.bench.limits"


def run(options: BenchOptions, note: Note = lambda text: None) -> dict[str, Any]:
    """Measure.

    Args:
        options: what is asked for.
        note: called with a line about each step.

    Returns:
        The report; see report.py. `not_run` names peers that could not be run, and why.

    Raises:
        InputError: an unknown shape or quantization.
        SeedOssError: the model cannot be had, or our own engine failed.
    """
    check_quantizations(options)
    directory = None if options.shape is not None else gguf_file(options.model) or resolve_model(options.model)
    check_stored(options, directory)
    config = SeedOssConfig.from_pretrained(directory) if directory is not None else shape_config(options.shape or "")
    with tempfile.TemporaryDirectory(prefix="seed-oss-bench-") as folder:
        workshop = Workshop(options, config, directory, Path(folder))
        return Run(options, config, directory, workshop, note).measure()


class Run:
    """One run's state: processes, trials, and what could not be run.

    Args:
        options: what is asked for.
        config: of the model.
        directory: of the checkpoint, or a GGUF file; None for a shape.
        workshop: makes the engines.
        note: called with a line about each step.
    """

    def __init__(
        self, options: BenchOptions, config: SeedOssConfig, directory: Path | None, workshop: Workshop, note: Note
    ) -> None:
        self.options, self.config, self.directory, self.workshop, self.note = options, config, directory, workshop, note
        self.not_run: list[dict[str, str]] = []
        self.versions = report.versions()
        self.limits: list[Limit] = []
        self._import_torch: list[float] = []

    def measure(self) -> dict[str, Any]:
        """All of it."""
        specs = self._specs()
        with ExitStack() as stack:
            live = self._start(specs, stack)
            trials = self._all_rounds(live, stack)
            peaks = [one.peak_rss_bytes() for one in live]
        starts = self._first_tokens([one.spec for one in live])
        found = [
            EngineResult(
                one.spec,
                {count: collect(trials[Turn(index, count)]) for count in self.options.thread_counts},
                one.load_s,
                one.weight_bytes,
                peaks[index],
                starts.get(one.spec.label, []),
            )
            for index, one in enumerate(live)
        ]
        return self._document(found)

    def _document(self, found: list[EngineResult]) -> dict[str, Any]:
        options, limits = self.options, report.limits_of(self.limits)
        work = {
            "prompt_tokens": options.prompt_tokens,
            "new_tokens": options.new_tokens,
            "product_weights": report.product_weights(self.config),
            "token_cache_bytes": report.token_cache_bytes(self.config),
        }
        start = Spread.of(self._import_torch) if self._import_torch else None
        return {
            "results": [report.result_row(one, limits, work) for one in found],
            "not_run": self.not_run,
            "limits": limits,
            "import_torch_s": None if start is None else start.median,
            "work": {"model": self._model_name(), **work, "trials": options.trials, "threads": options.thread_counts},
            "machine": report.machine(),
            "versions": self.versions,
            "command": report.command(),
        }

    def _model_name(self) -> str:
        return f"shape {self.options.shape}" if self.options.shape is not None else Path(self.options.model).name

    def _specs(self) -> list[EngineSpec]:
        specs: list[EngineSpec] = []
        for weights in self.options.quantizations:
            self.note(f"preparing {weights}")
            own = self.workshop.own(weights)
            specs += [own, replace(own, engine=OWN_LLM, can_start=False)] if self.options.with_llm else [own]
        for wish in self.options.peers:
            found = find_peer(wish.name, self.options.peer_python)
            if found is None:
                self._leave_out(wish.name, "not installed; run: pip install 'seed-oss[bench]'")
                continue
            self.versions[wish.name] = found.version
            self.note(f"preparing {wish.name} {found.version}")
            try:
                specs.extend(self.workshop.peer(wish, found))
            except SeedOssError as error:
                self._leave_out(wish.name, str(error))
        return specs

    def _leave_out(self, name: str, why: str) -> None:
        self.not_run.append({"engine": name, "why": why})
        self.note(f"{name} is left out: {why}")

    def _start(self, specs: list[EngineSpec], stack: ExitStack) -> list["LiveEngine"]:
        """Engines that loaded; a peer that does not is left out, our own raises."""
        live: list[LiveEngine] = []
        for spec in specs:
            engine = LiveEngine(spec, self.options.thread_counts, self.workshop.folder)
            stack.callback(engine.close)
            try:
                engine.load()
                engine.run_once(self._prompt_ids()[:4], 2, self.options.thread_counts[0])
            except StateError as error:
                if spec.engine == "seed_oss":
                    raise
                engine.close()
                self._leave_out(spec.label, str(error))
                continue
            self.note(f"{spec.label}: loaded in {max(engine.load_s):.2f} s")
            live.append(engine)
        return live

    def _prompt_ids(self) -> list[int]:
        count = self.options.prompt_tokens
        if self.directory is None:
            return random.Random(0).choices(range(3, self.config.vocab_size), k=count)
        from seed_oss import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(self.directory)
        ids = [int(one) for one in tokenizer(TEXT)["input_ids"]]
        return (ids * (count // len(ids) + 1))[:count]

    def _all_rounds(self, live: list["LiveEngine"], stack: ExitStack) -> dict[Turn, list[tuple[Trial, int]]]:
        """A warm-up round that does not count, then the trials; the limits are measured in each round."""
        prompt, options = self._prompt_ids(), self.options
        limits = EngineProcess(
            "the limits", LIMITS_MODULE, sys.executable, environment_for(sys.executable, self.workshop.folder)
        )
        stack.callback(limits.close)
        limits.ask({"do": "load", "threads": max(options.thread_counts), "buffer_bytes": _buffer_bytes(live)})
        found: dict[Turn, list[tuple[Trial, int]]] = {}
        for number, turns in enumerate(rounds(len(live), options.thread_counts, options.trials + 1)):
            self.note("warm-up" if number == 0 else f"trial {number} of {options.trials}")
            for turn in turns:
                engine = live[turn.engine]
                if number == 0:
                    engine.run_once(prompt, options.new_tokens, turn.threads)
                    continue
                trial, discarded = run_clean(
                    lambda e=engine, t=turn.threads: e.trial(prompt, options.new_tokens, t), options.max_repeats, _wait
                )
                found.setdefault(turn, []).append((trial, discarded))
                self._note_trial(engine, turn, trial, discarded)
            self.limits.append(self._limit(limits))
        return found

    def _note_trial(self, engine: "LiveEngine", turn: Turn, trial: Trial, discarded: int) -> None:
        prefill = self.options.prompt_tokens / trial.prefill_s
        decode = (self.options.new_tokens - 1) / trial.decode_s
        disturbed = (
            "" if is_clean(trial.foreign_share) else f", {trial.foreign_share:.0%} of the machine used by others"
        )
        repeated = f", {discarded} discarded" if discarded else ""
        self.note(
            f"  {engine.spec.label}, {turn.threads} threads: prefill {prefill:.0f}, decode {decode:.1f} tokens/s"
            f"{repeated}{disturbed}"
        )

    def _limit(self, process: EngineProcess) -> Limit:
        answers = [
            process.ask({"do": "run", "ids": [], "new_tokens": 0, "threads": count})
            for count in self.options.thread_counts
        ]
        return Limit(
            max(one["prefill_s"] for one in answers),
            max(one["decode_s"] for one in answers),
            max(one["ids"][0] for one in answers),
        )

    def _first_tokens(self, specs: list[EngineSpec]) -> dict[str, list[float]]:
        """Label to seconds, after a warm-up; disturbed trials are repeated as the others are."""
        if not self.options.measures_start or self.directory is None:
            return {}
        threads, ids = max(self.options.thread_counts), self._question_ids()
        commands = {
            spec.label: (
                first_token_command(spec.python, spec.module, spec.load, question=QUESTION, ids=ids, threads=threads),
                environment_for(spec.python, self.workshop.folder),
            )
            for spec in specs
            if spec.can_start
        }
        commands["import torch"] = (IMPORT_TORCH, {})
        found: dict[str, list[float]] = {}
        for number in range(self.options.trials + 1):
            self.note("start-up, warm-up" if number == 0 else f"start-up, trial {number} of {self.options.trials}")
            for label, (command, environment) in list(commands.items()):
                try:
                    seconds = self._first_token(command, environment)
                except StateError as error:  # what was measured before is not thrown away for it
                    self.note(f"  {label} does not start by itself: {error}")
                    del commands[label]
                    found.pop(label, None)
                    continue
                if number:
                    found.setdefault(label, []).append(seconds)
                    self.note(f"  {label}: {seconds:.2f} s")
        self._import_torch = found.pop("import torch", [])
        return found

    def _first_token(self, command: list[str], environment: Mapping[str, str]) -> float:
        trial, _ = run_clean(lambda: _started(command, environment), self.options.max_repeats, _wait)
        return trial.prefill_s

    def _question_ids(self) -> list[int]:
        from seed_oss import AutoTokenizer

        assert self.directory is not None
        tokenizer: Any = AutoTokenizer.from_pretrained(self.directory)
        if not tokenizer.chat_template:
            return [int(one) for one in tokenizer(QUESTION)["input_ids"]]
        messages = [{"role": "user", "content": QUESTION}]
        found = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
        return [int(one) for one in found["input_ids"]]


class LiveEngine:
    """An engine's process, or one for each number of threads where it is made for one.

    Args:
        spec: which engine.
        thread_counts: that it will be asked for.
        folder: of the run.
    """

    def __init__(self, spec: EngineSpec, thread_counts: tuple[int, ...], folder: Path) -> None:
        self.spec = spec
        environment = environment_for(spec.python, folder)
        keys = thread_counts if spec.is_per_threads else (0,)
        self._processes = {key: EngineProcess(spec.label, spec.module, spec.python, environment) for key in keys}
        self.load_s: list[float] = []
        self.weight_bytes: int | None = None
        self._is_closed = False

    def load(self) -> None:
        """Load the model in each process.

        Raises:
            StateError: it fails.
        """
        for key, process in self._processes.items():
            threads = {"threads": key} if key else {}
            answer = process.ask({**self.spec.load, **threads, "do": "load"})
            self.load_s.append(answer["load_s"])
            self.weight_bytes = answer.get("weight_bytes")

    def run_once(self, prompt_ids: list[int], new_tokens: int, threads: int) -> dict[str, Any]:
        """The engine's answer to one run."""
        process = self._process(threads)
        return process.ask({"do": "run", "ids": prompt_ids, "new_tokens": new_tokens, "threads": threads})

    def trial(self, prompt_ids: list[int], new_tokens: int, threads: int) -> Trial:
        """One run, and who else used the machine meanwhile."""
        measured = [self._process(threads).pid, os.getpid()]
        before = read_cpu_time(time.perf_counter(), measured)
        answer = self.run_once(prompt_ids, new_tokens, threads)
        after = read_cpu_time(time.perf_counter(), measured)
        read = self._process(threads).ask({"do": "read", "threads": threads})
        return Trial(answer["prefill_s"], answer["decode_s"], _share(before, after), read["bytes_per_s"])

    def _process(self, threads: int) -> EngineProcess:
        return self._processes[threads if self.spec.is_per_threads else 0]

    def peak_rss_bytes(self) -> int | None:
        """Of the process that took most."""
        found = [process.peak_rss_bytes() for process in self._processes.values()]
        known = [one for one in found if one is not None]
        return max(known) if known else None

    def close(self) -> None:
        """End the processes."""
        if not self._is_closed:
            self._is_closed = True
            for process in self._processes.values():
                process.close()


def _started(command: list[str], environment: Mapping[str, str]) -> Trial:
    """A start as a trial; the time of the child, which has ended, is added to ours."""
    before = read_cpu_time(time.perf_counter(), [os.getpid()])
    seconds, used = seconds_to_first_byte(command, environment)
    after = read_cpu_time(time.perf_counter(), [os.getpid()])
    if after is not None:
        after = CpuTime(after.wall, after.busy, after.own + used)
    return Trial(seconds, 0.0, _share(before, after))


def _share(before: CpuTime | None, after: CpuTime | None) -> float | None:
    if before is None or after is None:
        return None
    return foreign_share(before, after, os.cpu_count() or num_cpus())


def _buffer_bytes(live: list[LiveEngine]) -> int:
    """Of the buffer that is read; smaller beside a model that takes most of the memory."""
    largest = max((engine.weight_bytes or 0 for engine in live), default=0)
    return 2**28 if largest > 2**33 else 2**29


def _wait(failures: int) -> None:
    time.sleep(min(failures, 5))
