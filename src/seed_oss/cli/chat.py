"""`seed-oss chat`: a conversation in the terminal."""

from pathlib import Path
from typing import Annotated

import typer

from seed_oss.cli.forms import ResponseFormatOption, ToolChoiceOption, require_extra, response_format, tool_choice
from seed_oss.cli.loading import load
from seed_oss.cli.options import (
    CHAT_MAX_NEW_TOKENS,
    BudgetModeOption,
    ChatMaxNewTokensOption,
    DeviceOption,
    DType,
    DTypeOption,
    MinPOption,
    ModelOption,
    ModelOptions,
    QuantizationOption,
    RepetitionPenaltyOption,
    RevisionOption,
    SampleOption,
    SamplingOptions,
    SeedOption,
    SystemOption,
    TemperatureOption,
    ThinkingBudgetOption,
    ThreadsOption,
    TopKOption,
    TopPOption,
    most_new_tokens,
    thinking_budget,
)
from seed_oss.errors import InputError

ToolsOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.py",
        help="Your own Python file, whose code runs: the model may call the public functions defined in it, described "
        "by their type hints and docstrings, and you are asked before each call.",
        show_default=False,
    ),
]
YesOption = Annotated[bool, typer.Option("--yes", help="Run what the model calls without asking.")]
FoldOption = Annotated[
    bool, typer.Option("--fold", help="Begin with the thinking folded: shown as one line that counts its tokens.")
]


def chat(
    model: ModelOption = "demo",
    system: SystemOption = None,
    budget: ThinkingBudgetOption = None,
    budget_mode: BudgetModeOption = None,
    tools: ToolsOption = None,
    calls: ToolChoiceOption = None,
    answer_form: ResponseFormatOption = None,
    yes: YesOption = False,
    fold: FoldOption = False,
    max_new_tokens: ChatMaxNewTokensOption = None,
    sample: SampleOption = None,
    temperature: TemperatureOption = None,
    top_k: TopKOption = None,
    top_p: TopPOption = None,
    min_p: MinPOption = None,
    repetition_penalty: RepetitionPenaltyOption = None,
    seed: SeedOption = None,
    dtype: DTypeOption = DType.auto,
    quantization: QuantizationOption = None,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    revision: RevisionOption = None,
) -> None:
    """Talk to a model.

    Answers are written as they come, thinking dimmed. /help lists the commands of the conversation; Ctrl-C stops an
    answer, Ctrl-D ends the conversation. Without a terminal each line of stdin is a message; answers go to stdout,
    thinking and tool calls to stderr, and tools run only with --yes.

    Examples:

      seed-oss chat --model FOLDER --thinking-budget 512 --fold

      seed-oss chat --model FOLDER --system "Use the tools." --tools my_tools.py
    """
    wanted = thinking_budget(budget, budget_mode, max_new_tokens)  # contradictions are told before anything is loaded
    length = most_new_tokens(max_new_tokens, wanted, CHAT_MAX_NEW_TOKENS)
    sampling = SamplingOptions(length, sample, temperature, top_k, top_p, min_p, repetition_penalty, seed)
    sampling.settings(advised=False)
    if yes and tools is None:
        raise typer.BadParameter("it lets tools run, and there are none; give --tools too", param_hint="--yes")
    if tools is None:
        tool_choice(calls, ())
    form = response_format(answer_form)
    from seed_oss.cli.session import Session
    from seed_oss.cli.tool_runner import load_tools

    found = [] if tools is None else load_tools(tools)
    choice = tool_choice(calls, [tool.name for tool in found])
    require_extra(form, choice)
    loaded = load(ModelOptions(model, revision, dtype, device, threads, quantization), for_chat=True)
    if not loaded.has_template:
        raise InputError(
            f"{model} has no chat template, so it was not trained to talk; seed-oss generate --raw continues texts"
        )
    session = Session(
        loaded,
        loaded.settings(sampling),
        system,
        wanted,
        found,
        tool_choice=choice,
        response_format=form,
        allow_all=yes,
        folded=fold,
    )
    session.run(model)
