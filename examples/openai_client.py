"""A conversation with a server through OpenAI's client: the answer streamed, then one that is held to a schema.

make serve
python examples/openai_client.py http://127.0.0.1:8000/v1 "How do birds fly?"
"""

import argparse
from typing import Any

from openai import OpenAI
from pydantic import BaseModel


class Animal(BaseModel):
    """What the second answer has to be."""

    name: str
    can_fly: bool


def main() -> None:
    """Asks the first model that the server names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="of the API, with /v1")
    parser.add_argument("question")
    parser.add_argument("--api-key", default="unused", help="one of the server's keys, if it has any")
    parser.add_argument("--max-tokens", type=int, default=128)
    options = parser.parse_args()

    with OpenAI(base_url=options.url, api_key=options.api_key) as client:
        model = client.models.list().data[0].id
        asked: dict[str, Any] = {"model": model, "temperature": 0, "max_tokens": options.max_tokens}
        question: Any = {"role": "user", "content": options.question}
        with client.chat.completions.create(messages=[question], stream=True, **asked) as chunks:
            for chunk in chunks:
                print(chunk.choices[0].delta.content or "", end="", flush=True)
        print()

        wish: Any = {"role": "user", "content": "Name an animal."}
        answer = client.chat.completions.parse(messages=[wish], response_format=Animal, **asked)
        print(answer.choices[0].message.parsed)


if __name__ == "__main__":
    main()
