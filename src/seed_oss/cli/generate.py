"""`seed-oss generate`: one prompt, one answer."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from seed_oss.cli.forms import ResponseFormatOption, check_form, note_on_form, require_extra, response_format
from seed_oss.cli.loading import Loaded, load
from seed_oss.cli.options import (
    GENERATE_MAX_NEW_TOKENS,
    BudgetModeOption,
    DeviceOption,
    DType,
    DTypeOption,
    GenerateMaxNewTokensOption,
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
from seed_oss.cli.terminal import read_stdin, show_note
from seed_oss.errors import InputError

if TYPE_CHECKING:
    from seed_oss.chat.budget import ThinkingBudget
    from seed_oss.chat.output_format import OutputFormat
    from seed_oss.models.chat import ChatTurn

PromptArgument = Annotated[
    str | None,
    typer.Argument(metavar="PROMPT", help="The text; '-' or nothing reads it from stdin.", show_default=False),
]
ChatOption = Annotated[
    bool | None,
    typer.Option(
        "--chat/--raw",
        help="Give the prompt to the model as a message of a conversation, or as text to continue. The default is "
        "--chat if the checkpoint has a chat template.",
        show_default=False,
    ),
]


def generate(
    prompt: PromptArgument = None,
    model: ModelOption = "demo",
    chat: ChatOption = None,
    system: SystemOption = None,
    budget: ThinkingBudgetOption = None,
    budget_mode: BudgetModeOption = None,
    answer_form: ResponseFormatOption = None,
    max_new_tokens: GenerateMaxNewTokensOption = None,
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
    """Answer one prompt, or continue a text.

    The text is written to stdout as it comes; what is said about it (loading, speed) goes to stderr, and so does a
    model's thinking, dimmed on a terminal: stdout holds nothing but the answer.

    Examples:

      seed-oss generate "What is the capital of France?"

      seed-oss generate --model ByteDance-Seed/Seed-OSS-36B-Instruct --dtype bfloat16 "Hello"

      seed-oss generate --model FOLDER --thinking-budget 512 "What is 17 * 23?" > answer.txt

      seed-oss generate --response-format person.schema.json "Who wrote Dracula?" > answer.json

      seed-oss generate --raw --max-new-tokens 50 < beginning.txt
    """
    wanted = thinking_budget(budget, budget_mode, max_new_tokens)  # contradictions are told before anything is loaded
    length = most_new_tokens(max_new_tokens, wanted, GENERATE_MAX_NEW_TOKENS)
    sampling = SamplingOptions(length, sample, temperature, top_k, top_p, min_p, repetition_penalty, seed)
    sampling.settings(advised=False)
    form = response_format(answer_form)
    require_extra(form)
    text = _read_prompt(prompt)
    loaded = load(ModelOptions(model, revision, dtype, device, threads, quantization), for_chat=chat is not False)
    check_form(loaded, form)
    as_chat = _is_chat(loaded, chat, system, budget)
    if as_chat:
        turn = _chat_turn(loaded, text, system, wanted, length, form)
    else:
        turn = _raw_turn(loaded, text, length, form)
    _answer(loaded, turn, sampling, form, as_chat=as_chat)


def _read_prompt(given: str | None) -> str:
    if given is not None and given != "-":
        text = given
    elif given is None and sys.stdin.isatty():
        raise typer.BadParameter("no prompt; give it in quotes, or pipe it into the command")
    else:
        text = read_stdin()
    if not text:
        raise typer.BadParameter("the prompt is empty; give at least one character")
    return text


def _is_chat(loaded: Loaded, wanted: bool | None, system: str | None, budget: int | None) -> bool:
    as_chat = loaded.has_template if wanted is None else wanted
    if as_chat and not loaded.has_template:
        raise InputError("this checkpoint has no chat template; use --raw to continue the text as it is")
    for name, value in (("--system", system), ("--thinking-budget", budget)):
        if value is not None and not as_chat:
            raise InputError(
                f"{name} needs a conversation, and the text is continued as it is; leave one of the two out"
            )
    return as_chat


def _chat_turn(
    loaded: Loaded,
    text: str,
    system: str | None,
    budget: "ThinkingBudget",
    length: int,
    form: "OutputFormat | None",
) -> "ChatTurn":
    """The prompt as a message of a conversation."""
    from seed_oss.cli.answering import end_token_ids
    from seed_oss.models.chat import prepare_turn

    messages = [{"role": "system", "content": system}] if system is not None else []
    messages.append({"role": "user", "content": text})
    return prepare_turn(
        loaded.tokenizer,
        messages,
        response_format=form,
        vocab_size=loaded.model.config.vocab_size,
        thinking_budget=budget,
        max_new_tokens=length,
        end_token_ids=end_token_ids(loaded),
    )


def _raw_turn(loaded: Loaded, text: str, length: int, form: "OutputFormat | None") -> "ChatTurn":
    """The prompt as a text that goes on."""
    from seed_oss.cli.answering import end_token_ids
    from seed_oss.generation import grammar_control
    from seed_oss.models.chat import ChatTurn

    held = None
    if form is not None:
        size, ends = loaded.model.config.vocab_size, end_token_ids(loaded)
        held = grammar_control(loaded.tokenizer, response_format=form, vocab_size=size, eos_token_id=ends)
    ids = loaded.tokenizer(text, return_tensors="pt")["input_ids"]
    return ChatTurn(ids, length, controls=() if held is None else (held,))


def _answer(
    loaded: Loaded, turn: "ChatTurn", sampling: SamplingOptions, form: "OutputFormat | None", *, as_chat: bool
) -> None:
    from seed_oss.cli.answer_view import AnswerView
    from seed_oss.cli.answering import Answer, generation_arguments, run_stream
    from seed_oss.cli.paper import make_paper
    from seed_oss.models.chat import ChatStream

    view, answer = AnswerView(make_paper()), Answer()
    limit = None if turn.thinking is None else turn.thinking.budget.tokens
    view.begin(limit, is_seed=turn.thinking is not None)
    answer.begin()
    settings = generation_arguments(loaded.settings(sampling))[1]
    try:
        stream = ChatStream(loaded.model, loaded.tokenizer, turn, settings)
        run_stream(stream, view.show if as_chat else view.show_raw, answer)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    finally:
        view.end_line()
        show_note(answer.summary())
    note = note_on_form(stream, form)
    if note is not None:
        show_note(note)
