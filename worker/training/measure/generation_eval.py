"""Generation during training: a few held-out prompts are answered greedily and held against the completions.

How a text goes on is ``continuation``'s. Leaves the model and the random numbers of training as they were. Axis
letters: B prompts, T tokens, V vocabulary.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from core.text.tokenizer import TextTokenizer
from worker.trainer_process.messages import HeldOutAnswer, HeldOutAnswers
from worker.training.data.examples import ExampleSet, TokenizedExample
from worker.training.measure.continuation import continue_texts
from worker.training.model.lora import LoraModel
from worker.training.process.stopping import CheckStop

MAX_QUESTIONS: Final = 8
MAX_SCORED_QUESTIONS: Final = 32  # where the job asks for scores of the answers
MAX_NEW_TOKENS: Final = 64
MARGIN_TOKENS: Final = 8  # beyond the completion's own, in which a model may still stop by itself
_SHOWN_PROMPT_CHARS: Final = 500


@dataclass(frozen=True)
class Question:
    """A prompt, and its completion without the closing token."""

    prompt_ids: tuple[int, ...]
    expected_ids: tuple[int, ...]

    @property
    def limit(self) -> int:
        """How many new tokens an answer may have, the closing one among them."""
        return min(MAX_NEW_TOKENS, len(self.expected_ids) + 1 + MARGIN_TOKENS)

    @property
    def can_be_judged(self) -> bool:
        """Whether the whole completion fits into the limit."""
        return len(self.expected_ids) < self.limit


@dataclass(frozen=True)
class GenerationEvaluator:
    """Asks the model in its present state; the questions stay the same for a whole run."""

    model: LoraModel
    tokenizer: TextTokenizer
    questions: Sequence[Question]
    token_budget: int  # of one batch, padding and answers included

    def evaluate(self, step: int, check_stop: CheckStop) -> HeldOutAnswers | None:
        """Answer every question; None where there is none.

        Raises:
            Stopped: the trainer was told to stop.
        """
        if not self.questions:
            return None
        answers: dict[Question, list[int]] = {}
        self.model.activate()
        self.model.peft.eval()
        try:
            for batch in _batches(self.questions, self.token_budget):
                answers |= zip(batch, self._answer(batch, check_stop), strict=True)
        finally:
            self.model.peft.train()
        compared = tuple(self._compare(question, answers[question]) for question in self.questions)
        return HeldOutAnswers(step=step, answers=compared)

    def _answer(self, questions: Sequence[Question], check_stop: CheckStop) -> list[list[int]]:
        """Give each question's new ids, up to a closing token, which is the last of them, or the limit."""
        answers: list[list[int]] = [[] for _ in questions]
        prompts = [question.prompt_ids for question in questions]
        texts = continue_texts(self.model, prompts, max(question.limit for question in questions))
        check_stop()
        logits_BV = texts.read_prompts()
        while True:
            chosen_B = logits_BV[:, : self.tokenizer.vocab_size].argmax(dim=-1)  # no id that no token has
            for answer, question, token_id in zip(answers, questions, chosen_B.tolist(), strict=True):
                if not self._is_complete(answer, question):
                    answer.append(token_id)
            if all(map(self._is_complete, answers, questions)):
                return answers
            check_stop()
            logits_BV = texts.read(chosen_B)

    def _is_complete(self, answer: list[int], question: Question) -> bool:
        return len(answer) == question.limit or self._has_stopped(answer)

    def _has_stopped(self, answer: list[int]) -> bool:
        return bool(answer) and answer[-1] in self.tokenizer.end_ids

    def _compare(self, question: Question, answer: list[int]) -> HeldOutAnswer:
        stopped = self._has_stopped(answer)
        got = answer[:-1] if stopped else answer
        prompt = self.tokenizer.decode(question.prompt_ids, skip_special=False)
        cut = len(prompt) > _SHOWN_PROMPT_CHARS
        return HeldOutAnswer(
            prompt=f"…{prompt[-_SHOWN_PROMPT_CHARS:]}" if cut else prompt,
            expected=self.tokenizer.decode(question.expected_ids[: question.limit]),
            got=self.tokenizer.decode(got),
            stopped=stopped if question.can_be_judged else None,
            exact=stopped and tuple(got) == question.expected_ids if question.can_be_judged else None,
        )


def choose_questions(
    examples: ExampleSet, tokenizer: TextTokenizer, context_tokens: int, most: int = MAX_QUESTIONS
) -> list[Question]:
    """Make questions of the first examples that can be asked, ``most`` at most, and always the same ones.

    Left out are those whose prompt leaves no room for the answer, whose first completion is masked in
    part or has no closing token, and repetitions of an earlier prompt.
    """
    chosen: dict[tuple[int, ...], Question] = {}
    for index in range(len(examples)):
        question = _question_of(examples[index], tokenizer.end_ids)
        if question is not None and len(question.prompt_ids) + question.limit <= context_tokens:
            chosen.setdefault(question.prompt_ids, question)
        if len(chosen) == most:
            break
    return list(chosen.values())


def _question_of(example: TokenizedExample, end_ids: Iterable[int]) -> Question | None:
    """Take an example apart at its first completion, which may be followed by more turns of a conversation."""
    places = np.flatnonzero(example.is_completion_T)
    if not len(places):
        return None
    begin = int(places[0])
    behind = np.flatnonzero(~example.is_completion_T[begin:])
    completion = example.ids_T[begin : begin + int(behind[0]) if len(behind) else None]
    ends = np.flatnonzero(np.isin(completion, list(end_ids)))
    if not len(ends):
        return None
    return Question(tuple(example.ids_T[:begin].tolist()), tuple(completion[: int(ends[0])].tolist()))


def _batches(questions: Sequence[Question], token_budget: int) -> Iterator[list[Question]]:
    """Put questions of similar length together, each batch within the budget; one over it is alone."""
    batch: list[Question] = []
    for question in sorted(questions, key=lambda question: len(question.prompt_ids)):
        # the longest prompt so far, and room for the longest answer there may be
        if batch and (len(batch) + 1) * (len(question.prompt_ids) + MAX_NEW_TOKENS) > token_budget:
            yield batch
            batch = []
        batch.append(question)
    yield batch
