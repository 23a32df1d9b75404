"""apply_chat_template, as a part of the tokenizer."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from seed_oss.chat.encoding import BatchEncoding
from seed_oss.chat.template_process import SHARED
from seed_oss.chat.templating import choose_template, render_conversation, split_conversations
from seed_oss.chat.vocabulary import Vocabulary
from seed_oss.errors import InputError


class ChatCalls(Vocabulary):
    """Chat messages to text or token ids."""

    chat_template: str | dict[str, str] | None

    @abstractmethod
    def _call(self, text: str | Sequence[Any], arguments: Mapping[str, Any]) -> BatchEncoding:
        """Tokenize text: a call of the tokenizer with these arguments."""

    def prepare_chat_template(self) -> None:
        """Start what renders templates, without waiting: worth it where a model is loaded meanwhile."""
        if self.chat_template is not None:
            SHARED.start()

    def get_chat_template(self, chat_template: str | None = None, tools: Sequence[Any] | None = None) -> str:
        """The template that `apply_chat_template` uses with the same arguments.

        Raises:
            TemplateError: There is none.
        """
        return choose_template(self.chat_template, chat_template, with_tools=tools is not None)

    def apply_chat_template(
        self,
        conversation: Sequence[Any],
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        chat_template: str | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool | str = False,
        tokenize: bool = True,
        sanitize_control_tokens: bool = False,
        padding: bool | str = False,
        truncation: bool | str | None = False,
        max_length: int | None = None,
        return_tensors: str | None = None,
        return_dict: bool = True,
        return_assistant_tokens_mask: bool = False,
        tokenizer_kwargs: Mapping[str, Any] | None = None,
        **variables: Any,
    ) -> Any:
        """Turn messages into a prompt through the checkpoint's template, or another one.

        A template is untrusted code: it runs sandboxed, in a process of its own, with bounds on time, memory and
        output.

        Args:
            conversation: Messages, mappings with `role` and `content`; or a batch of such lists.
            tools: Tools as JSON schemas.
            documents: Documents for templates that take any.
            chat_template: Text or name of a template to use instead of the checkpoint's.
            add_generation_prompt: Open the assistant's turn at the end.
            continue_final_message: End where the last message ends, so that the model goes on with it; a string names
                the field to continue, such as "reasoning_content".
            tokenize: Return token ids, not text.
            sanitize_control_tokens: Only False: control tokens written in messages count as control tokens.
            padding: As in a call of the tokenizer.
            truncation: As in a call.
            max_length: As in a call.
            return_tensors: As in a call.
            return_dict: Return a BatchEncoding, not `input_ids` alone.
            return_assistant_tokens_mask: Only False.
            tokenizer_kwargs: Further arguments of the call.
            **variables: Variables of the template, such as `thinking_budget`.

        Returns:
            BatchEncoding, or `input_ids`, or with `tokenize=False` text; lists of these for a batch.

        Raises:
            InputError: Arguments that do not go together.
            TemplateError: The template cannot render the messages, or exceeds a bound.
        """
        if sanitize_control_tokens or return_assistant_tokens_mask:
            raise InputError("sanitize_control_tokens=True and return_assistant_tokens_mask=True are not supported yet")
        if continue_final_message and add_generation_prompt:
            raise InputError("continue_final_message and add_generation_prompt exclude each other; choose one")
        template = self.get_chat_template(chat_template, tools)
        conversations, batched = split_conversations(conversation)
        texts = [
            render_conversation(
                template,
                messages,
                tools=tools,
                documents=documents,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                variables={**self.special_tokens_map, **variables},
            )
            for messages in conversations
        ]
        if not tokenize:
            return texts if batched else texts[0]
        arguments: dict[str, Any] = {
            "add_special_tokens": False,
            "padding": padding,
            "truncation": truncation,
            "max_length": max_length,
            "return_tensors": return_tensors,
        }
        encoded = self._call(texts if batched else texts[0], {**arguments, **(tokenizer_kwargs or {})})
        return encoded if return_dict else encoded["input_ids"]
