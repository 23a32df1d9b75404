"""Trains a small Seed-OSS from scratch until it thinks, reflects on its budget and calls a tool.

    python examples/teach_budget.py OUT_DIR

It learns to add numbers line by line inside `<seed:think>`, saying every 128 tokens how much of its budget is left;
to answer with what it has when the budget is spent; and to leave products to a calculator. Talk to it afterwards, and
ask `Take 23 and add 7, 14 times.` or `37*85 = ?`. It knows single questions: /reset between them.

    seed-oss chat --model OUT_DIR --thinking-budget 512 --tools OUT_DIR/multiply.py
"""

import argparse
import inspect
import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from seed_oss import AutoModelForCausalLM, AutoTokenizer, SeedOssConfig, SeedOssForCausalLM, SeedOssTokenizer
from seed_oss.chat import AssistantMessage, ToolCall, render, seed_chat_template
from seed_oss.chat.budget import BUDGET_SPENT, ThinkingBudget, reflection
from seed_oss.chat.control_tokens import BOS, END_REFLECT, END_THINK, EOS, PAD, REFLECT, SEED_CONTROL_TOKENS, THINK
from seed_oss.chat.python_tools import PythonTool
from seed_oss.errors import InputError
from seed_oss.models.chat import ChatStream

BUDGET, SMALL_BUDGETS, REFLECT_EVERY = 512, (48, 64, 80, 96), 128  # 128 tokens: so says the template beside 512
SHORT, MIXED, LONG = (2, 8), (3, 18), (13, 18)  # how many additions; the thought of a long sum takes over 128 tokens
IGNORED = -100  # label of what the assistant did not write

Messages = list[dict[str, Any]]
Count = Callable[[str], int]  # how many tokens a text is


def multiply(a: int, b: int) -> int:
    """Multiply two numbers.

    Args:
        a: a number
        b: a number
    """
    return a * b


CALCULATOR = PythonTool.of(multiply)


# What there is to learn


@dataclass(frozen=True)
class Problem:
    """A question, and either the steps of a thought or what to call the calculator with."""

    question: str
    answer: str
    lines: Sequence[str] = ()
    arguments: dict[str, int] | None = None


def is_held_out(a: int, b: int) -> bool:
    """Every eleventh pair of numbers is never trained on, and is what the trial asks for."""
    return (a + 4 * b) % 11 == 0  # eleven, so that no last digit gives them away


def draw_sum(rng: random.Random, sizes: tuple[int, int], *, held_out: bool = False) -> Problem:
    """A number to which another is added again and again; the thought counts down how often."""
    start, step, times = rng.randint(10, 49), rng.randint(2, 9), rng.randint(*sizes)
    if is_held_out(start, step) != held_out:
        return draw_sum(rng, sizes, held_out=held_out)
    totals = list(range(start, start + step * times + 1, step))
    steps = zip(range(times, 0, -1), totals, totals[1:], strict=False)
    lines = [f"{left}: {before} + {step} = {after}.\n" for left, before, after in steps]
    return Problem(f"Take {start} and add {step}, {times} times.", f"It is {totals[-1]}.", lines)


def draw_product(rng: random.Random, *, held_out: bool = False) -> Problem:
    """Two numbers for the calculator."""
    a, b = rng.randint(10, 99), rng.randint(10, 99)
    if is_held_out(a, b) != held_out:
        return draw_product(rng, held_out=held_out)
    return Problem(f"{a}*{b} = ?", f"{multiply(a, b)} is the product.", arguments={"a": a, "b": b})


@dataclass(frozen=True)
class Row:
    """A conversation to learn from, and what its prompt says of budget and tools."""

    messages: Messages
    budget: int | None = BUDGET
    tools: Sequence[dict[str, Any]] = (CALCULATOR.definition,)


def thinking(problem: Problem, thought: str, **prompt: Any) -> Row:
    """Question, thought and answer."""
    said = {"role": "assistant", "reasoning_content": thought, "content": problem.answer}
    return Row([{"role": "user", "content": problem.question}, said], **prompt)


def calling(problem: Problem, **prompt: Any) -> Row:
    """Question, call of the tool, its result and the answer."""
    call = {"type": "function", "function": {"name": CALCULATOR.name, "arguments": problem.arguments}}
    calls = {"role": "assistant", "reasoning_content": "A product: I call the tool.", "tool_calls": [call]}
    result = {"role": "tool", "content": str(CALCULATOR(problem.arguments or {}))}
    said = {"role": "assistant", "content": problem.answer}
    return Row([{"role": "user", "content": problem.question}, calls, result, said], **prompt)


def reflecting(problem: Problem, count: Count) -> Row:
    """The whole thought; after every 128 tokens a reflection states the true counts."""
    text, used, due = "", 0, REFLECT_EVERY
    for line in problem.lines:
        text, used = text + line, used + count(line)
        if used >= due:
            said = reflection(used + 1, BUDGET - used - 1)  # its opening marker counts
            text, used, due = f"{text}{REFLECT}{said}{END_REFLECT}\n", used + count(said) + 3, due + REFLECT_EVERY
    return thinking(problem, text)


def cut_short(problem: Problem, budget: int, tokenizer: SeedOssTokenizer) -> Row:
    """A thought that its budget ended, as decoding ends it: with a sentence if one ends within the grace."""
    ids: list[int] = tokenizer.encode("".join(problem.lines), add_special_tokens=False)
    last = budget + ThinkingBudget(budget).grace
    ends = [end for end in range(budget, last) if tokenizer.decode(ids[end - 1]).endswith((".", "\n"))]
    text: str = tokenizer.decode(ids[: min([*ends, last])])
    spent = f"{REFLECT}{BUDGET_SPENT}{END_REFLECT}\n"  # the template would strip this end of a line from a thought
    said = {"role": "assistant", "content": f"{THINK}{text}{spent}{END_THINK}\n{so_far(text)}"}
    return Row([{"role": "user", "content": problem.question}, said], budget=budget)


def so_far(thought: str) -> str:
    """What there is to say where the budget was spent before the sum was done."""
    reached = re.findall(r"= (\d+)\.", thought)
    return f"So far it is {reached[-1] if reached else 0}."


def plain_rows(rng: random.Random, sizes: tuple[int, int]) -> Iterator[Row]:
    """To begin with: no word of budget and tools, which would only take time."""
    bare: dict[str, Any] = {"budget": None, "tools": ()}
    while True:
        problem, product = draw_sum(rng, sizes), draw_product(rng)
        yield calling(product, **bare) if rng.random() < 0.4 else thinking(problem, "".join(problem.lines), **bare)


def seed_rows(rng: random.Random, tokenizer: SeedOssTokenizer) -> Iterator[Row]:
    """All of it: reflections, budgets that end a thought, calls of the tool."""
    count = cache(lambda text: len(tokenizer.encode(text, add_special_tokens=False)))  # lines come again and again
    while True:
        problem, kind = draw_sum(rng, LONG), rng.random()
        if kind < 0.25:
            yield calling(draw_product(rng))
        elif kind < 0.4:
            yield cut_short(problem, rng.choice(SMALL_BUDGETS), tokenizer)
        else:
            yield reflecting(problem, count)


# The tokenizer, and rows as tensors


def make_tokenizer(rng: random.Random) -> SeedOssTokenizer:
    """Byte-level BPE in which every digit is a token, with the added tokens and the template of the release."""
    special = [BOS.text, PAD.text, EOS.text]
    markers = [token.text for token in SEED_CONTROL_TOKENS if token.text not in special]
    backend = Tokenizer(models.BPE())
    words = pre_tokenizers.Split(Regex(r" ?\p{N}| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+"), "isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(False, use_regex=False)])
    backend.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=768, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(corpus(rng), trainer)
    backend.add_tokens([AddedToken(marker, normalized=False, special=False) for marker in markers])
    names = dict(zip(("bos_token", "pad_token", "eos_token"), special, strict=True))
    return SeedOssTokenizer(backend, chat_template=seed_chat_template(), **names)


def corpus(rng: random.Random) -> Iterator[str]:
    """Texts with every word that is needed."""
    for _ in range(200):
        for row in (reflecting(draw_sum(rng, LONG), len), calling(draw_product(rng))):
            prompt = render(row.messages, tools=row.tools, thinking_budget=row.budget)
            yield f"{prompt}\n{BUDGET_SPENT}\n{so_far('= 7.')}"


def encode(row: Row, tokenizer: SeedOssTokenizer) -> tuple[Tensor, Tensor]:
    """A row's ids and labels, int64 `[length]` each; learned is what the assistant wrote, ends of turns included."""
    inputs = tokenizer.apply_chat_template(
        row.messages,
        tools=row.tools,
        thinking_budget=row.budget,
        return_assistant_tokens_mask=True,
        sanitize_control_tokens=False,  # the rows are ours: the reflections in them are real ones
    )
    ids, mask = torch.tensor(inputs["input_ids"]), torch.tensor(inputs["assistant_masks"])
    return ids, ids.masked_fill(mask == 0, IGNORED)


def batch(rows: Sequence[Row], tokenizer: SeedOssTokenizer) -> dict[str, Tensor]:
    """`input_ids` and `labels`, int64 `[batch, length]`, padded on the right, where attention needs no mask."""
    columns = zip(*(encode(row, tokenizer) for row in rows), strict=True)
    padded = zip(("input_ids", "labels"), columns, (0, IGNORED), strict=True)
    return {name: pad_sequence(list(some), batch_first=True, padding_value=fill) for name, some, fill in padded}


# Training


def make_model(tokenizer: SeedOssTokenizer) -> SeedOssForCausalLM:
    """0.3 million parameters in the family's shape: heads x head_dim is twice the hidden size, the head is untied."""
    sizes = {"hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 4}
    heads = {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 16, "max_position_embeddings": 2048}
    start = {"initializer_range": 0.1, "rope_theta": 1e5, "attention_dropout": 0.0, "residual_dropout": 0.0}
    config = SeedOssConfig(vocab_size=len(tokenizer), **sizes, **heads, **start)
    model = SeedOssForCausalLM(config)
    look_back(model)
    return model


@torch.no_grad()
def look_back(model: SeedOssForCausalLM, strength: float = 6.0) -> None:
    """Sets the biases of q and k in the lowest layer so that its n-th head begins by looking n tokens back.

    Rotary positions turn a key by its position and a query by its own, so a query bias that lags by n tokens meets the
    key bias there. To look up what follows a name takes such a head, and finding one by chance takes many steps.
    """
    config = model.config
    attention: Any = model.model.layers[0].self_attn
    turns = config.rope_theta ** (-torch.arange(0, config.head_dim, 2) / config.head_dim)  # radians a token
    angles = torch.outer(torch.arange(config.num_attention_heads), turns)
    attention.q_proj.bias.copy_(strength * torch.cat((angles.cos(), -angles.sin()), dim=1).flatten())
    ahead = torch.cat((torch.ones_like(turns), torch.zeros_like(turns)))
    attention.k_proj.bias.copy_(strength * ahead.repeat(config.num_key_value_heads))


Lesson = tuple[int, Iterator[Row]]  # so many steps of such rows


def lessons(rng: random.Random, tokenizer: SeedOssTokenizer, num_steps: int) -> list[Lesson]:
    """Looking things up is learned on short sums, which cost little; then long ones; then all of it."""
    short, mixed = num_steps // 4, num_steps // 5
    plan = [(short, plain_rows(rng, SHORT)), (mixed, plain_rows(rng, MIXED))]
    return [*plan, (num_steps - short - mixed, seed_rows(rng, tokenizer))]


def train(model: SeedOssForCausalLM, tokenizer: SeedOssTokenizer, plan: Sequence[Lesson], num_rows: int) -> list[float]:
    """Goes through the lessons with AdamW, a short warm-up and a cosine; returns the loss of each step."""
    steps = [rows for num_steps, rows in plan for _ in range(num_steps)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-3, betas=(0.9, 0.95), weight_decay=0.01)
    rates = {"max_lr": 6e-3, "total_steps": len(steps), "pct_start": 0.05, "cycle_momentum": False}
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, **rates)
    losses: list[float] = []
    started = time.perf_counter()
    model.train()
    for rows in steps:
        loss = model(**batch(list(islice(rows, num_rows)), tokenizer), use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if len(losses) % 50 == 1 or len(losses) == len(steps):
            print(f"step {len(losses)}: loss {losses[-1]:.4f}, {time.perf_counter() - started:.0f} s", flush=True)
    return losses


# The trial


@dataclass(frozen=True)
class Pupil:
    """A model that is asked."""

    model: Any
    tokenizer: SeedOssTokenizer
    max_new_tokens: int = 1024

    def ask(self, messages: Messages, budget: int = BUDGET) -> ChatStream:
        """The whole answer."""
        tools, length = [CALCULATOR.definition], self.max_new_tokens
        answer = self.model.chat(
            self.tokenizer, messages, tools=tools, thinking_budget=budget, max_new_tokens=length, stream=True
        )
        for _ in answer:
            pass
        return answer

    def solve(self, question: str, budget: int = BUDGET) -> list[ChatStream]:
        """The answer; if it calls the tool, also the answer to what the tool says."""
        messages: Messages = [{"role": "user", "content": question}]
        first = self.ask(messages, budget)
        calls = first.message.tool_calls
        results = [{"role": "tool", "tool_call_id": call.id, "content": result_of(call)} for call in calls]
        return [first, self.ask([*messages, first.message.to_openai(), *results], budget)] if results else [first]


def result_of(call: ToolCall) -> str:
    """Runs a call; what is wrong with it is told to the model."""
    try:
        return str(CALCULATOR(call.parsed_arguments()))
    except InputError as error:
        return f"Error: {error}"


def is_right(problem: Problem, message: AssistantMessage) -> bool:
    """Whether the answer is right; where the budget ended the thought, whether a right thought had reached it."""
    if BUDGET_SPENT not in message.reasoning:
        return message.content == problem.answer
    thought = message.reasoning.split(str(REFLECT))[0].strip()
    return thought in "".join(problem.lines) and message.content == so_far(thought)


def show(question: str, answers: Sequence[ChatStream]) -> None:
    """Prints a question and all that was said to it."""
    print(f"\n> {question}")
    for answer in answers:
        message = answer.message
        print(f"[{answer.usage.reasoning_tokens} tokens of thinking] {message.reasoning}")
        print(*(f"[call] {call.name} {call.arguments}" for call in message.tool_calls), f"[answer] {message.content}")


def examine(pupil: Pupil, problems: Sequence[Problem], budget: int = BUDGET) -> int:
    """Asks, shows the first answer, says how it went, and returns how many answers were right."""
    solved = [pupil.solve(problem.question, budget) for problem in problems]
    show(problems[0].question, solved[0])
    num_right = sum(is_right(problem, said[-1].message) for problem, said in zip(problems, solved, strict=True))
    num_reflecting = sum(any(one.used for one in said[0].message.reflections) for said in solved)
    num_calling = sum(len(said) > 1 for said in solved)
    most = max(answer.usage.reasoning_tokens for said in solved for answer in said)
    print(f"budget {budget}: {num_right} of {len(solved)} right, {num_reflecting} with a reflection", end=", ")
    print(f"{num_calling} through the tool; at most {most} tokens of thinking")
    return num_right


def main() -> None:
    """Trains, saves, loads what was saved, and tries it on problems that were held out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out_dir", type=Path, help="where the trained model goes")
    parser.add_argument("--steps", type=int, default=1000, help="of training, all lessons together")
    parser.add_argument("--rows", type=int, default=16, help="conversations in a step")
    parser.add_argument("--trials", type=int, default=20, help="held-out problems of each kind")
    parser.add_argument("--max-new-tokens", type=int, default=1024, help="of an answer in the trial")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    torch.manual_seed(options.seed)
    rng = random.Random(options.seed)
    tokenizer = make_tokenizer(rng)
    model = make_model(tokenizer)
    train(model, tokenizer, lessons(rng, tokenizer, options.steps), options.rows)
    model.save_pretrained(options.out_dir)
    tokenizer.save_pretrained(options.out_dir)
    (options.out_dir / "multiply.py").write_text(inspect.getsource(multiply), encoding="utf-8")

    trained = AutoModelForCausalLM.from_pretrained(options.out_dir)
    pupil = Pupil(trained, AutoTokenizer.from_pretrained(options.out_dir), options.max_new_tokens)
    sums = [draw_sum(rng, LONG, held_out=True) for _ in range(options.trials)]
    examine(pupil, sums)
    examine(pupil, sums, budget=SMALL_BUDGETS[1])
    examine(pupil, [draw_product(rng, held_out=True) for _ in range(options.trials)])


if __name__ == "__main__":
    main()
