"""`seed-oss generate`: one prompt, one answer."""

import sys
from typing import Annotated

import typer

from seed_oss.cli.answering import Answer, encode_messages, encode_prompt, stream_answer
from seed_oss.cli.loading import Loaded, load
from seed_oss.cli.options import (
    DeviceOption,
    DType,
    DTypeOption,
    MaxNewTokensOption,
    MinPOption,
    ModelOption,
    ModelOptions,
    RepetitionPenaltyOption,
    RevisionOption,
    SampleOption,
    SamplingOptions,
    SeedOption,
    SystemOption,
    TemperatureOption,
    ThreadsOption,
    TopKOption,
    TopPOption,
)
from seed_oss.cli.terminal import read_stdin, show_note, write_piece
from seed_oss.errors import InputError

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
    max_new_tokens: MaxNewTokensOption = 512,
    sample: SampleOption = None,
    temperature: TemperatureOption = None,
    top_k: TopKOption = None,
    top_p: TopPOption = None,
    min_p: MinPOption = None,
    repetition_penalty: RepetitionPenaltyOption = None,
    seed: SeedOption = None,
    dtype: DTypeOption = DType.auto,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    revision: RevisionOption = None,
) -> None:
    """Answer one prompt, or continue a text.

    The text is written to stdout as it comes; what is said about it (loading, speed) goes to stderr.

    Examples:

      seed-oss generate "What is the capital of France?"

      seed-oss generate --model ByteDance-Seed/Seed-OSS-36B-Instruct --dtype bfloat16 "Hello"

      seed-oss generate --raw --max-new-tokens 50 < beginning.txt
    """
    sampling = SamplingOptions(max_new_tokens, sample, temperature, top_k, top_p, min_p, repetition_penalty, seed)
    sampling.settings(advised=False)  # contradictions are told before anything is loaded
    text = _read_prompt(prompt)
    loaded = load(ModelOptions(model, revision, dtype, device, threads), for_chat=chat is not False)
    as_chat = _is_chat(loaded, chat, system)
    _answer(loaded, text, system, as_chat, sampling)


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


def _is_chat(loaded: Loaded, wanted: bool | None, system: str | None) -> bool:
    as_chat = loaded.has_template if wanted is None else wanted
    if as_chat and not loaded.has_template:
        raise InputError("this checkpoint has no chat template; use --raw to continue the text as it is")
    if system is not None and not as_chat:
        raise InputError("--system needs a conversation, and the text is continued as it is; leave one of the two out")
    return as_chat


def _answer(loaded: Loaded, text: str, system: str | None, as_chat: bool, sampling: SamplingOptions) -> None:
    if as_chat:
        messages = [{"role": "system", "content": system}] if system is not None else []
        input_ids = encode_messages(loaded, [*messages, {"role": "user", "content": text}])
    else:
        input_ids = encode_prompt(loaded, text)
    answer = Answer()
    try:
        stream_answer(loaded, input_ids, loaded.settings(sampling), write_piece, answer)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    finally:
        if answer.pieces and not answer.pieces[-1].endswith("\n"):
            write_piece("\n")
        show_note(answer.summary())
