"""Text from a causal language model: the loop, and what can be plugged into it."""

from seed_oss.generation.api import generate
from seed_oss.generation.grammar import GrammarControl, grammar_control
from seed_oss.generation.grammar_compiler import GrammarCompiler, GrammarLimits
from seed_oss.generation.log_probs import PromptLogProbs, perplexity, prompt_log_probs
from seed_oss.generation.outputs import GenerateBeamDecoderOnlyOutput, GenerateDecoderOnlyOutput
from seed_oss.generation.processor_base import LogitsProcessor, LogitsProcessorList
from seed_oss.generation.processors import (
    DRYLogitsProcessor,
    FrequencyPresencePenaltyLogitsProcessor,
    MinLengthLogitsProcessor,
    MinNewTokensLengthLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
)
from seed_oss.generation.row_control import Directive, RowControl
from seed_oss.generation.seeding import set_seed
from seed_oss.generation.stopping import (
    EosTokenCriteria,
    MaxLengthCriteria,
    MaxTimeCriteria,
    StoppingCriteria,
    StoppingCriteriaList,
    StopStringCriteria,
)
from seed_oss.generation.streamers import BaseStreamer, TextIteratorStreamer, TextStreamer
from seed_oss.generation.token_rules import (
    ForcedBOSTokenLogitsProcessor,
    ForcedEOSTokenLogitsProcessor,
    LogitBiasLogitsProcessor,
    NoBadWordsLogitsProcessor,
    SequenceBiasLogitsProcessor,
    SuppressTokensAtBeginLogitsProcessor,
    SuppressTokensLogitsProcessor,
)
from seed_oss.generation.warpers import (
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    LogitNormalization,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopNSigmaLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
    XTCLogitsWarper,
)

__all__ = [
    "BaseStreamer",
    "DRYLogitsProcessor",
    "Directive",
    "EosTokenCriteria",
    "EpsilonLogitsWarper",
    "EtaLogitsWarper",
    "ForcedBOSTokenLogitsProcessor",
    "ForcedEOSTokenLogitsProcessor",
    "FrequencyPresencePenaltyLogitsProcessor",
    "GenerateBeamDecoderOnlyOutput",
    "GenerateDecoderOnlyOutput",
    "GrammarCompiler",
    "GrammarControl",
    "GrammarLimits",
    "LogitBiasLogitsProcessor",
    "LogitNormalization",
    "LogitsProcessor",
    "LogitsProcessorList",
    "MaxLengthCriteria",
    "MaxTimeCriteria",
    "MinLengthLogitsProcessor",
    "MinNewTokensLengthLogitsProcessor",
    "MinPLogitsWarper",
    "NoBadWordsLogitsProcessor",
    "NoRepeatNGramLogitsProcessor",
    "PromptLogProbs",
    "RepetitionPenaltyLogitsProcessor",
    "RowControl",
    "SequenceBiasLogitsProcessor",
    "StopStringCriteria",
    "StoppingCriteria",
    "StoppingCriteriaList",
    "SuppressTokensAtBeginLogitsProcessor",
    "SuppressTokensLogitsProcessor",
    "TemperatureLogitsWarper",
    "TextIteratorStreamer",
    "TextStreamer",
    "TopKLogitsWarper",
    "TopNSigmaLogitsWarper",
    "TopPLogitsWarper",
    "TypicalLogitsWarper",
    "XTCLogitsWarper",
    "generate",
    "grammar_control",
    "perplexity",
    "prompt_log_probs",
    "set_seed",
]
