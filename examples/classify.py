"""Puts a classification head on a causal checkpoint and trains it for a few steps.

    python examples/classify.py demo OUT_DIR

Only the head learns here, which takes seconds; leave out `requires_grad_` to train all of it.
"""

import argparse

import torch

from seed_oss import AutoModelForSequenceClassification, AutoTokenizer

LABELS = {0: "question", 1: "statement"}
TEXTS = [
    ("What is the capital of France?", 0),
    ("Paris is the capital of France.", 1),
    ("How do birds fly?", 0),
    ("Birds fly by moving air downwards.", 1),
    ("Who wrote this book?", 0),
    ("My sister wrote this book.", 1),
]


def main() -> None:
    """Loads, trains the head, saves, and classifies with what was saved."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a directory, a hub id, or demo")
    parser.add_argument("out_dir", help="where the trained classifier goes")
    parser.add_argument("--steps", type=int, default=30)
    options = parser.parse_args()

    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForSequenceClassification.from_pretrained(
        options.model,
        num_labels=len(LABELS),
        id2label=LABELS,
        label2id={name: index for index, name in LABELS.items()},
        pad_token_id=tokenizer.pad_token_id,
        dtype=torch.float32,
    )
    model.model.requires_grad_(False)
    inputs = tokenizer([text for text, _ in TEXTS], padding=True, return_tensors="pt")
    labels = torch.tensor([label for _, label in TEXTS])
    optimizer = torch.optim.AdamW(model.score.parameters(), lr=0.02)
    for step in range(options.steps):
        loss = model(**inputs, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % 10 == 0 or step == options.steps - 1:
            print(f"step {step}: loss {loss.item():.4f}")

    model.save_pretrained(options.out_dir)
    tokenizer.save_pretrained(options.out_dir)
    classifier = AutoModelForSequenceClassification.from_pretrained(options.out_dir).eval()
    with torch.no_grad():
        best = classifier(**inputs).logits.argmax(-1).tolist()
    for (text, _), index in zip(TEXTS, best, strict=True):
        print(f"{classifier.config.id2label[index]}: {text}")


if __name__ == "__main__":
    main()
