"""Text from a causal language model: the loop, and what can be plugged into it."""

from seed_oss.generation.api import generate
from seed_oss.generation.outputs import GenerateDecoderOnlyOutput
from seed_oss.generation.processors import (
    LogitsProcessor,
    LogitsProcessorList,
    MinLengthLogitsProcessor,
    MinNewTokensLengthLogitsProcessor,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
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

__all__ = [
    "BaseStreamer",
    "EosTokenCriteria",
    "GenerateDecoderOnlyOutput",
    "LogitsProcessor",
    "LogitsProcessorList",
    "MaxLengthCriteria",
    "MaxTimeCriteria",
    "MinLengthLogitsProcessor",
    "MinNewTokensLengthLogitsProcessor",
    "MinPLogitsWarper",
    "RepetitionPenaltyLogitsProcessor",
    "StopStringCriteria",
    "StoppingCriteria",
    "StoppingCriteriaList",
    "TemperatureLogitsWarper",
    "TextIteratorStreamer",
    "TextStreamer",
    "TopKLogitsWarper",
    "TopPLogitsWarper",
    "generate",
    "set_seed",
]
