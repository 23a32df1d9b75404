"""apply_chat_template, as a part of the tokenizer."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from seed_oss.chat.control_vocabulary import ControlVocabulary, without_surrogates
from seed_oss.chat.encoding import BatchEncoding
from seed_oss.chat.prompt_rows import PromptRows, RowArguments
from seed_oss.chat.prompts import Prompt, PromptRequest, foreign_prompt, seed_prompt
from seed_oss.chat.template_kind import SeedKind, hashed_kind, seed_kind
from seed_oss.chat.template_process import SHARED
from seed_oss.chat.templating import choose_template, split_conversations
from seed_oss.chat.vocabulary import Vocabulary
from seed_oss.errors import InputError, TemplateError


class ChatCalls(Vocabulary):
    """Chat messages to text or token ids."""

    chat_template: str | dict[str, str] | None
    model_max_length: int
    truncation_side: str

    @abstractmethod
    def _call(self, text: str | Sequence[Any], arguments: Mapping[str, Any]) -> BatchEncoding:
        """Tokenize text: a call of the tokenizer with these arguments."""

    @abstractmethod
    def _pad_rows(self, rows: Mapping[str, Any], arguments: RowArguments) -> BatchEncoding:
        """Pad rows that are already cut, and turn them into tensors, as a call of the tokenizer would."""

    def prepare_chat_template(self) -> None:
        """Start what renders templates, without waiting: worth it where a model is loaded meanwhile."""
        if self.chat_template is None:
            return
        if not (isinstance(self.chat_template, str) and hashed_kind(self.chat_template)):
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
        sanitize_control_tokens: bool = True,
        padding: bool | str = False,
        truncation: bool | str | None = False,
        max_length: int | None = None,
        return_tensors: str | None = None,
        return_dict: bool = True,
        return_assistant_tokens_mask: bool = False,
        tokenizer_kwargs: Mapping[str, Any] | None = None,
        *,
        thinking_budget: Any = None,
        use_json_tooldef: bool = False,
        **variables: Any,
    ) -> Any:
        """Turn messages into a prompt through the checkpoint's template, or another one.

        The two released Seed templates, and copies of them, are rendered by our own code, which first brings what
        clients send into their form. Any other template is untrusted code: it runs sandboxed, in a process of its own,
        with bounds on time, memory and output.

        Args:
            conversation: Messages, mappings with `role` and `content`; or a batch of such lists.
            tools: Tools as JSON schemas.
            documents: Documents for templates that take any.
            chat_template: Text or name of a template to use instead of the checkpoint's.
            add_generation_prompt: Open the assistant's turn at the end.
            continue_final_message: End where the last message ends, so that the model goes on with it; a string names
                the field to continue, such as "reasoning_content".
            tokenize: Return token ids, not text.
            sanitize_control_tokens: Control tokens written in messages, tools and variables are ordinary text; only the
                template's own become control tokens. False, as in transformers: they count.
            padding: As in a call of the tokenizer.
            truncation: As in a call.
            max_length: As in a call.
            return_tensors: As in a call.
            return_dict: Return a BatchEncoding, not `input_ids` alone.
            return_assistant_tokens_mask: Return `assistant_masks` too: 1 for each token that starts in what the
                assistant wrote (reasoning, content, calls and the end of the turn), 0 for the others.
            tokenizer_kwargs: Further arguments of the call: `padding_side`, `truncation_side`, ...
            thinking_budget: Tokens that the model is told to think within; 0 for no thinking, None for no word of it;
                or an object with such a number as `template_value`.
            use_json_tooldef: Show tools as JSON, not as Python, where the template knows both.
            **variables: Further variables of the template.

        Returns:
            BatchEncoding, or `input_ids`, or with `tokenize=False` text; lists of these for a batch.

        Raises:
            InputError: Arguments that do not go together.
            TemplateError: The template cannot render the messages, or exceeds a bound; or a mask is asked for and the
                template does not mark what the assistant wrote.
            TokenizerError: The vocabulary lacks a control token of the template.
        """
        if continue_final_message and add_generation_prompt:
            raise InputError("continue_final_message and add_generation_prompt exclude each other; choose one")
        if return_assistant_tokens_mask and not (tokenize and return_dict):
            raise InputError("return_assistant_tokens_mask=True needs tokenize=True and return_dict=True")
        if "messages" in variables:
            raise InputError("messages is given beside the conversation, and means the same; give one of them")
        template = self.get_chat_template(chat_template, tools)
        conversations, batched = split_conversations(conversation)
        request = PromptRequest(
            tools=tools,
            documents=documents,
            thinking_budget=thinking_budget,
            use_json_tooldef=use_json_tooldef,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            variables=variables,
        )
        sanitize = tokenize and sanitize_control_tokens
        prompts = self._prompts(template, conversations, request, sanitize, return_assistant_tokens_mask)
        if not tokenize:
            texts = [prompt.text for prompt in prompts]
            return texts if batched else texts[0]
        arguments: dict[str, Any] = {
            "add_special_tokens": False,
            "padding": padding,
            "truncation": truncation,
            "max_length": max_length,
            "return_tensors": return_tensors,
            **(tokenizer_kwargs or {}),
        }
        encoded = self._encode_prompts(prompts, batched, arguments, sanitize, return_assistant_tokens_mask)
        return encoded if return_dict else encoded["input_ids"]

    def _prompts(
        self, template: str, conversations: list[list[Any]], request: PromptRequest, sanitize: bool, with_spans: bool
    ) -> list[Prompt]:
        kind = _kind_for(template, request)
        vocabulary = self._control_vocabulary() if sanitize and kind is None else None

        def prompt(messages: list[Any]) -> Prompt:
            if kind is not None:
                return seed_prompt(messages, request, kind.variant)
            return foreign_prompt(
                template,
                messages,
                request,
                special_tokens=self.special_tokens_map,
                vocabulary=vocabulary,
                with_spans=with_spans,
            )

        return [_named(prompt, messages, index, len(conversations)) for index, messages in enumerate(conversations)]

    def _encode_prompts(
        self, prompts: list[Prompt], batched: bool, arguments: dict[str, Any], sanitize: bool, with_mask: bool
    ) -> BatchEncoding:
        as_written = not sanitize or all(prompt.segments is None for prompt in prompts)
        if as_written and not with_mask:
            texts = [without_surrogates(prompt.text) if sanitize else prompt.text for prompt in prompts]
            return self._call(texts if batched else texts[0], arguments)
        checked = RowArguments.read(arguments, self.model_max_length, self.truncation_side)
        rows = PromptRows(self._control_vocabulary(), prompts, checked, sanitize=sanitize, with_mask=with_mask)
        return self._pad_rows(rows.columns(as_batch=batched or checked.return_tensors is not None), checked)

    def _control_vocabulary(self) -> ControlVocabulary:
        return self._backend.remembered(ControlVocabulary, lambda: ControlVocabulary(self._backend.tokenizer))


def _named(prompt: Callable[[list[Any]], Prompt], messages: list[Any], index: int, num_conversations: int) -> Prompt:
    """The prompt of one of several conversations; an error says of which."""
    try:
        return prompt(messages)
    except TemplateError as error:
        if num_conversations == 1:
            raise
        raise TemplateError(f"conversation {index} of the batch: {error}") from error


def _kind_for(template: str, request: PromptRequest) -> SeedKind | None:
    """What kind of Seed template it is; None also for a copy that reads a variable which this call sets."""
    kind = seed_kind(template)
    if kind is None or kind.exact:
        return kind
    names = [*request.variables, *(["documents"] if request.documents is not None else [])]
    return None if any(name in template for name in names) else kind
