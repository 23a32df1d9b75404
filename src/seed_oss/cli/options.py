"""Options that several commands take."""

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seed_oss.errors import InputError

if TYPE_CHECKING:
    from seed_oss.chat.budget import ThinkingBudget


class DType(StrEnum):
    """Names of dtypes that weights can be loaded in."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


ModelOption = Annotated[
    str,
    typer.Option(
        "--model", "-m", metavar="MODEL", help="Folder of a checkpoint, GGUF file, hub id, or 'demo' (a small model)."
    ),
]
RevisionOption = Annotated[str | None, typer.Option(metavar="NAME", help="Branch, tag or commit of a hub model.")]
DTypeOption = Annotated[
    DType, typer.Option(help="Type of the weights in memory; 'auto' is the one they are stored in.")
]
QuantizationOption = Annotated[
    str | None,
    typer.Option(
        metavar="SCHEME",
        help="Quantize the weights while they are loaded: int4, int8 or another scheme. `seed-oss quantize` does it "
        "once for all.",
        show_default=False,
    ),
]
DeviceOption = Annotated[
    str, typer.Option(metavar="DEVICE", help="Where the model runs: 'auto', 'cpu', 'cuda', 'cuda:1', 'mps'.")
]
ThreadsOption = Annotated[
    int | None, typer.Option(min=1, max=1024, help="CPU threads; the default is one per core.", show_default=False)
]
ANSWER_RESERVE = 512  # tokens beyond a thinking budget, where nothing else is said


def _max_new_tokens_option(usual: int) -> Any:
    return typer.Option(
        min=1,
        help=f"Most tokens of an answer, thinking included. The default is {usual}, or what --thinking-budget allows "
        f"and {ANSWER_RESERVE} for the answer where that is more.",
        show_default=False,
    )


GENERATE_MAX_NEW_TOKENS = 512
CHAT_MAX_NEW_TOKENS = 2048
GenerateMaxNewTokensOption = Annotated[int | None, _max_new_tokens_option(GENERATE_MAX_NEW_TOKENS)]
ChatMaxNewTokensOption = Annotated[int | None, _max_new_tokens_option(CHAT_MAX_NEW_TOKENS)]
SampleOption = Annotated[
    bool | None,
    typer.Option(
        "--sample/--greedy",
        help="Draw tokens at random, or take the most likely one. The default is what the model's files and the "
        "options below ask for, else --greedy.",
        show_default=False,
    ),
]
TemperatureOption = Annotated[
    float | None,
    typer.Option(min=0.0, help="Lower is more predictable, higher more varied; 0 is --greedy.", show_default=False),
]
TopKOption = Annotated[
    int | None, typer.Option(min=0, help="Draw from this many most likely tokens; 0 is no limit.", show_default=False)
]
TopPOption = Annotated[
    float | None,
    typer.Option(
        min=0.0, max=1.0, help="Draw from the likeliest tokens with this total probability.", show_default=False
    ),
]
MinPOption = Annotated[
    float | None,
    typer.Option(
        min=0.0, max=1.0, help="Draw from tokens with this share of the best one's probability.", show_default=False
    ),
]
RepetitionPenaltyOption = Annotated[
    float | None, typer.Option(min=0.0, help="Above 1, tokens seen before become less likely.", show_default=False)
]
SeedOption = Annotated[
    int | None,
    typer.Option(min=0, max=2**64 - 1, help="Makes random draws repeatable.", show_default=False),
]
SystemOption = Annotated[
    str | None, typer.Option(metavar="TEXT", help="System message before the conversation.", show_default=False)
]
ThinkingBudgetOption = Annotated[
    int | None,
    typer.Option(
        "--thinking-budget",
        min=-1,
        metavar="TOKENS",
        help="Most tokens of thinking: 0 for none, -1 for no limit, which is the default. Models are trained on 512, "
        "1024, 2048, 4096, 8192 and 16384. For models that think in the Seed format.",
        show_default=False,
    ),
]


class BudgetMode(StrEnum):
    """How a thinking budget is brought about."""

    both = "both"
    soft = "soft"
    hard = "hard"


BudgetModeOption = Annotated[
    BudgetMode | None,
    typer.Option(
        help="'soft' asks the model to keep to the budget, 'hard' counts and ends the thinking, 'both' does both and "
        "is the default.",
        show_default=False,
    ),
]


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """Which model, and where and how it runs."""

    model: str
    revision: str | None
    dtype: DType
    device: str
    threads: int | None
    quantization: str | None = None


def thinking_budget(tokens: int | None, mode: BudgetMode | None, max_new_tokens: int | None) -> "ThinkingBudget":
    """The budget that the options stand for.

    Args:
        tokens: --thinking-budget.
        mode: --budget-mode.
        max_new_tokens: --max-new-tokens; None where the budget may settle it.

    Raises:
        typer.BadParameter: a mode without a budget, a budget out of range or one that leaves no tokens for the answer.
    """
    from seed_oss.chat.budget import ThinkingBudget

    if mode is not None and tokens is None:
        raise typer.BadParameter("it says how a budget is kept; give --thinking-budget too", param_hint="--budget-mode")
    try:
        budget = ThinkingBudget(tokens, (mode or BudgetMode.both).value)
    except InputError as error:
        raise typer.BadParameter(str(error), param_hint="--thinking-budget") from None
    if tokens is not None and max_new_tokens is not None and tokens >= max_new_tokens:
        raise typer.BadParameter(
            f"{tokens} leaves nothing of --max-new-tokens {max_new_tokens} for the answer; raise that, or think less",
            param_hint="--thinking-budget",
        )
    return budget


def most_new_tokens(given: int | None, budget: "ThinkingBudget", usual: int) -> int:
    """How many tokens may come: what was said, else the usual number, or more where the budget needs more."""
    if given is not None:
        return given
    return max(usual, (budget.tokens or 0) + ANSWER_RESERVE)


@dataclass(frozen=True, slots=True)
class SamplingOptions:
    """How tokens are chosen; None leaves a setting to the model's files."""

    max_new_tokens: int
    sample: bool | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float | None
    seed: int | None

    def settings(self, *, advised: bool) -> dict[str, Any]:
        """Keyword arguments for `generate`.

        Args:
            advised: the model's files advise sampling settings.

        Raises:
            typer.BadParameter: options that contradict each other.
        """
        shaping = {
            "temperature": self.temperature,
            "top_k": self.top_k,
            "top_p": self.top_p,
            "min_p": self.min_p,
            "seed": self.seed,
        }
        given = {name: value for name, value in shaping.items() if value is not None}
        settings: dict[str, Any] = {"max_new_tokens": self.max_new_tokens}
        if self.repetition_penalty is not None:
            settings["repetition_penalty"] = self.repetition_penalty
        if self._is_greedy(given, advised):
            return {**settings, "do_sample": False}
        return {**settings, **given, "do_sample": True}

    def _is_greedy(self, given: dict[str, Any], advised: bool) -> bool:
        if self.temperature == 0 and self.sample:
            raise typer.BadParameter("--sample and --temperature 0 contradict each other; give one of them")
        if self.sample is False and given.keys() - {"temperature", "seed"}:
            names = ", ".join("--" + name.replace("_", "-") for name in given)
            raise typer.BadParameter(f"--greedy takes the most likely token, so {names} would have no effect")
        if self.sample is not None:
            return not self.sample
        return self.temperature == 0 or not (advised or given)
