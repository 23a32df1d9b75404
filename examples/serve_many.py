"""Many questions through one engine, answered together.

python examples/serve_many.py demo "What is the capital of France?" "How do birds fly?"
"""

import argparse

from seed_oss import LLM, SamplingParams


def main() -> None:
    """Loads the model, answers all questions at once, and prints them in the order in which they were asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a directory, a GGUF file, a hub id, or demo")
    parser.add_argument("questions", nargs="+")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--quantization", help="such as int4")
    options = parser.parse_args()

    conversations = [[{"role": "user", "content": question}] for question in options.questions]
    with LLM(options.model, quantization=options.quantization) as llm:
        outputs = llm.chat(conversations, SamplingParams(temperature=0, max_tokens=options.max_tokens))
    for question, output in zip(options.questions, outputs, strict=True):
        answer = output.request.outputs[0]
        print(f"{question}\n  {output.messages[0].content}")
        print(f"  {len(answer.token_ids)} tokens, {answer.finish_reason}")


if __name__ == "__main__":
    main()
