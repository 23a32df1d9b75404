"""Text from a checkpoint, streamed while it is made.

python examples/generate.py demo "What is the capital of France?"
"""

import argparse

from seed_oss import AutoModelForCausalLM, AutoTokenizer, TextStreamer


def main() -> None:
    """Loads the checkpoint, renders the question with its chat template, and prints the answer piece by piece."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a directory, a hub id, or demo")
    parser.add_argument("question")
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--seed", type=int, help="sample with this seed instead of taking the likeliest token")
    options = parser.parse_args()

    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForCausalLM.from_pretrained(options.model)
    messages = [{"role": "user", "content": options.question}]
    inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    sampling = {"do_sample": False} if options.seed is None else {"do_sample": True, "seed": options.seed}
    streamer = TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    model.generate(**inputs, **sampling, max_new_tokens=options.max_new_tokens, streamer=streamer)


if __name__ == "__main__":
    main()
