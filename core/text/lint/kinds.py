"""The kinds of problems that a lint finds: how severe each is, what it says, and what to do about it.

``error``: the file, or the job that it is meant for, would fail. ``warning``: it would train, and not as its
author believes. ``info``: worth knowing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Severity(StrEnum):
    """In falling order."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of problem. ``message`` is a format of ``examples`` ("3 examples"), ``count``, ``first`` and numbers."""

    severity: Severity
    message: str
    remedy: str


_UNREADABLE: Final = "{count:,} of the lines cannot be used. The first, {first}."
_OUTLIER_RULE: Final = (
    "Far is beyond Tukey's outer fence: on the logarithm of the length, three interquartile ranges from the nearer "
    "quartile, and at least a factor of two."
)

# Codes that reading a line gives (`core.text.files.examples.LineProblem.code`), with their remedies.
_LINE_REMEDIES: Final[Mapping[str, str]] = {
    "malformed": "Correct these lines, or leave them out.",
    "not_an_object": "Write one JSON object on each line.",
    "duplicate_key": "Keep one of the keys that stand twice: parsers disagree about which one counts.",
    "not_a_number": "Write null or a number where NaN or Infinity stands, or leave the example out.",
    "lone_surrogate": "Write whole characters: a text was cut in the middle of one.",
    "nested_too_deeply": "Flatten these objects: a prompt format reads their upper levels only.",
    "number_too_large": "Write these numbers as strings, which are kept exactly.",
    "nul": "Remove the NUL characters.",
    "not_utf8": "Save the file as UTF-8.",
    "line_too_long": "Shorten these lines, or raise LORAMILL_MAX_LINE_BYTES.",
    "empty_completion": "Write the answer that is to be learnt, or leave the example out.",
    "role_order": "Let each conversation begin with a prompt and end with the assistant's answer.",
    "weight": "Give each weight as a number from 0 to 1.",
    "mask_span": "Give each span as [begin, end], counted in characters of its answer.",
    "mixed_formats": "Use one format in a file; put the other examples into a file of their own.",
    "empty_file": "Write at least one example.",
    "header": "Give each column a name of its own.",
    "field_count": "Put fields that hold commas, quotes or line breaks into double quotes.",
    "column_type": "Write these columns as strings, numbers, or lists and objects of them.",
    "malformed_csv": "Write the file with a CSV library, which quotes what needs it.",
    "malformed_parquet": "Write the file again with a Parquet library.",
    "file_too_large": "Split the file, or upload it as JSONL.",
}
_OTHER_LINE_REMEDY: Final = "Correct these lines, or leave them out: a file with such a line is not trained on."

_KINDS: Final[Mapping[str, Kind]] = {
    "cannot_render": Kind(
        Severity.ERROR,
        "For this base model and these settings, {examples} cannot be turned into tokens. The first, {first}.",
        "Correct these examples, or change prompt_format or the base model: a job with this file would fail.",
    ),
    "over_length_refused": Kind(
        Severity.ERROR,
        "The policy for over-length examples is error, and {examples} exceed max_length, "
        "by {tokens_over:,} tokens in all.",
        "Raise max_length, shorten these examples, or choose over_length drop or truncate_prompt.",
    ),
    "nothing_to_train": Kind(
        Severity.ERROR,
        "No example is left to train on: each of them was left out for one of the other reasons.",
        "Mend the other findings first; most often max_length is too low, or every weight is 0.",
    ),
    "over_length_dropped": Kind(
        Severity.WARNING,
        "Longer than max_length, and so left out: {examples} with {tokens_lost:,} tokens.",
        "Raise max_length, shorten these examples, or choose over_length truncate_prompt.",
    ),
    "prompt_truncated": Kind(
        Severity.WARNING,
        "The beginning of the prompt is cut off in {examples}: {tokens_lost:,} tokens that the model never sees.",
        "Raise max_length or shorten the prompts; an instruction at a prompt's beginning is what is lost first.",
    ),
    "prompt_over_max_length": Kind(
        Severity.WARNING,
        "What is given to the model exceeds max_length even without a completion in {examples}.",
        "Raise max_length, or shorten these prompts.",
    ),
    "no_trained_tokens": Kind(
        Severity.WARNING,
        "Every token has weight 0, so nothing is learnt from {examples}.",
        "Give an answer of each a weight above 0, mask less of it, or leave the example out.",
    ),
    "blank_completion": Kind(
        Severity.WARNING,
        "Nothing but white space and the end token is learnt from {examples}.",
        "Write the answer that is to be learnt, or leave the example out.",
    ),
    "special_token_in_text": Kind(
        Severity.WARNING,
        "The text of a special token of the base model stands in {examples}, and becomes that token. "
        "The first, line {first}.",
        "Remove these texts unless they are meant: an end token inside an answer teaches the model to stop there.",
    ),
    "lost_characters": Kind(
        Severity.WARNING,
        "The tokenizer drops or changes characters of {examples}, in training as in serving. The first, line {first}.",
        "Remove these characters, or write others for them: the base model cannot see them as they are.",
    ),
    "prompt_ends_in_space": Kind(
        Severity.WARNING,
        "The prompt ends in a space or tab in {examples}. Tokenizers put a space at the front of the next word, "
        "so the model hardly ever saw one that stands alone.",
        "Move the space from the prompt's end to the completion's beginning, and ask the model likewise.",
    ),
    "duplicate": Kind(
        Severity.WARNING,
        "An exact repetition of an earlier example: {examples}. The first, line {first}.",
        "Keep one of each, unless it is meant to weigh more.",
    ),
    "conflicting_completions": Kind(
        Severity.WARNING,
        "The prompt stood before with another completion in {examples}. The first, line {first}.",
        "Settle on one completion for a prompt; keep several only if each of them is a right answer.",
    ),
    "validation_overlap": Kind(
        Severity.WARNING,
        "In the training file too: {examples} of the validation file. The first, line {first}.",
        "Remove them from one of the files: what was trained on says nothing about new examples.",
    ),
    "validation_overlap_normalised": Kind(
        Severity.WARNING,
        "In the training file too but for case, white space and punctuation: {examples} of the validation file. "
        "The first, line {first}.",
        "Remove them from one of the files: what was trained on says nothing about new examples.",
    ),
    "validation_prompt_overlap": Kind(
        Severity.WARNING,
        "The prompt is in the training file, with another completion, in {examples} of the validation file. "
        "The first, line {first}.",
        "Put all examples of a prompt into the same file.",
    ),
    "label_imbalance": Kind(
        Severity.WARNING,
        "The completions are {labels:,} distinct texts, of which the most frequent stands in {most:,} examples and "
        "the rarest in {least:,}.",
        "Add examples of the rare ones, or leave out some of the frequent: the model learns to prefer the latter.",
    ),
    "few_distinct_completions": Kind(
        Severity.INFO,
        "The completions are {labels:,} distinct texts, of which the most frequent stands in {most:,} examples and "
        "the rarest in {least:,}.",
        "Judge the result by how many answers are right rather than by its loss, and look at each answer's own share.",
    ),
    "completion_ends_in_end_token": Kind(
        Severity.INFO,
        "The completion ends in the base model's end token in {examples}. It is trained once, as it is where it "
        "was not written.",
        "Leave it out: it is added to every completion.",
    ),
    "near_duplicate": Kind(
        Severity.INFO,
        "Nearly the same as an earlier example: {examples}. The first, line {first}.",
        "Look at some of them; keep one of each if they say the same.",
    ),
    "very_long": Kind(
        Severity.INFO,
        "Far longer than the others, with at least {from_tokens:,} tokens: {examples}. " + _OUTLIER_RULE,
        "Look at them: often several examples became one, or a document is left whole.",
    ),
    "very_short": Kind(
        Severity.INFO,
        "Far shorter than the others, with at most {to_tokens:,} tokens: {examples}. " + _OUTLIER_RULE,
        "Look at them: often a part of the example is missing.",
    ),
    "space_moved": Kind(
        Severity.INFO,
        "The prompt format leaves a space or tab at the prompt's end in {examples}; it is moved to the "
        "completion's beginning, in training as in serving.",
        "Nothing needs to be done.",
    ),
    "comparison_capped": Kind(
        Severity.INFO,
        "Duplicates, conflicts and overlap were looked for up to here: {examples} come after the first 200,000, and "
        "were not compared.",
        "Split the file to compare the rest.",
    ),
}

CODES: Final = frozenset({*_LINE_REMEDIES, *_KINDS})


def kind_of(code: str) -> Kind:
    """Give the kind of a code; one that only reading a line knows is an unreadable line's."""
    known = _KINDS.get(code)
    if known is not None:
        return known
    return Kind(Severity.ERROR, _UNREADABLE, _LINE_REMEDIES.get(code, _OTHER_LINE_REMEDY))
