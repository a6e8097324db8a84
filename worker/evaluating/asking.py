"""Asks an engine for one row of one model, however often the engine is away meanwhile, and scores what it says.

What is scored is what is served: the answer comes from the engine that clients ask, and so does the likelihood of the
reference, token by token, by asking for no answer and for the logprobs of prompt and reference together.
"""

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

from core.errors import EngineBusy, EngineStarting, EngineUnavailable, GenerationFailed, HostUnsuited
from core.evaluations.scores import EXTRACTED, NATS, ScoredRow
from core.evaluations.spec import EvaluationSpec
from core.scoring.registry import METRICS
from core.scoring.sample import Sample
from core.serving.generation import Delta, Engine, FinishReason, GenerationRequest, PromptToken, SamplingParams
from worker.evaluating.questions import AskedRow

_PAUSE_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 10.0
_FAILURES: Final = 5  # of the engine at one row, after which it is not asked again
_FEWEST_GIVEN, _MOST_GIVEN = 4, 8  # tokens of an answer that a model is to go on with, half of it at most


@dataclass(frozen=True)
class _Answer:
    text: str
    stopped: bool


@dataclass(frozen=True)
class _Likelihood:
    logprobs: tuple[float, ...]
    most_likely: tuple[bool, ...]


class RowAsker:
    """One evaluation's questions to one engine; used from one event loop.

    Attributes:
        at_once: how many rows the engine answers in one batch; 1 until that is known.
        waits_for: why the engine cannot be asked now, in a sentence; None: it can.
    """

    def __init__(self, engine: Engine, spec: EvaluationSpec, *, job_id: str, caller: str) -> None:
        self.at_once = 1
        self.waits_for: str | None = None
        self._engine = engine
        self._spec = spec
        self._job_id = job_id
        self._caller = f"{caller}/evaluation"  # so that what the same caller asks besides has a turn of its own
        self._is_known = False  # whether it was seen since it was last away
        self._labels = None if spec.labels is None else frozenset(spec.labels)

    async def ask(self, question: AskedRow) -> ScoredRow:
        """Have one model answer one row; waits for an engine that is away, starting or busy.

        Raises:
            HostUnsuited: the engine serves another base model than the evaluation is about.
            GenerationFailed: the engine fails at this row each time.
            ServiceError: as `Engine.generate`, of what no waiting mends.
        """
        failures = 0
        while True:
            try:
                scored = await self._ask_once(question)
            except EngineBusy as busy:
                await asyncio.sleep(min(busy.retry_after_s, _LONGEST_PAUSE_S))
            except (EngineUnavailable, EngineStarting) as away:
                self.waits_for, self._is_known, failures = str(away), False, 0
                await asyncio.sleep(_PAUSE_S)
            except GenerationFailed as failure:
                failures += 1
                if failures == _FAILURES:
                    raise GenerationFailed(
                        f"line {question.row.line}, {failures} times: {failure.args[0]}"
                    ) from failure
                self._is_known = False
                await asyncio.sleep(_PAUSE_S)
            else:
                self.waits_for = None
                return scored

    async def _ask_once(self, question: AskedRow) -> ScoredRow:
        if not self._is_known:
            await self._know()
        match question.row.part:
            case "judged":
                return await self._judge(question)
            case "general":
                return await self._remember(question, with_extraction=False)
            case "trained":
                return await self._remember(question, with_extraction=True)

    async def _judge(self, question: AskedRow) -> ScoredRow:
        """Score what the model answers, and what it says of the reference, by the metrics that were asked for."""
        answer = await self._answer(question) if self._spec.needs_answers else None
        likelihood = await self._likelihood(question) if self._spec.needs_likelihoods else None
        sample = Sample(
            answer=None if answer is None else answer.text,
            reference=question.row.reference,
            labels=self._labels,
            stopped=None if answer is None else answer.stopped,
            logprobs=None if likelihood is None else likelihood.logprobs,
            most_likely=None if likelihood is None else likelihood.most_likely,
        )
        scores = await asyncio.to_thread(self._score, sample)  # long texts take a second
        return _scored(question, scores, tokens=len(sample.logprobs or ()), answer=answer)

    async def _remember(self, question: AskedRow, *, with_extraction: bool) -> ScoredRow:
        """Score how likely a text is to the model, and whether it knows an answer by heart."""
        likelihood = await self._likelihood(question)
        scores = {NATS: METRICS[NATS].score(Sample(logprobs=likelihood.logprobs))}
        if with_extraction:
            scores[EXTRACTED] = await self._extraction(question)
        return _scored(question, scores, tokens=len(likelihood.logprobs))

    async def _extraction(self, question: AskedRow) -> float | None:
        """Give 1 where the model goes on with an answer exactly once it has its beginning; None: it is too short."""
        row = question.row
        if len(row.answer_ids) < 2 * _FEWEST_GIVEN:
            return None
        given = min(_MOST_GIVEN, len(row.answer_ids) // 2)
        rest = row.answer_ids[given:]
        ids = (*row.prompt_ids, *row.answer_ids[:given])
        deltas = await self._generate(question, "extraction", ids, SamplingParams(max_tokens=len(rest)))
        return float(tuple(token.id for delta in deltas for token in delta.tokens) == rest)

    async def _know(self) -> None:
        info = await self._engine.info()
        pinned = self._spec.base_model_fingerprint
        if info.fingerprint != pinned:
            raise HostUnsuited(
                f"the engine for {self._spec.base_model} serves the fingerprint {info.fingerprint[:12]}, and the "
                f"evaluation was made for {pinned[:12]}; restart the engine with that base model"
            )
        self.at_once, self._is_known = max(1, info.max_batch), True

    async def _answer(self, question: AskedRow) -> _Answer:
        asked, row = self._spec.sampling, question.row
        room = self._spec.context_tokens - len(row.prompt_ids)
        seed = None if asked.seed is None else (asked.seed + question.number) % 2**63
        sampling = asked.model_copy(update={"max_tokens": min(asked.max_tokens, room), "seed": seed})
        deltas = await self._generate(question, "answer", row.prompt_ids, sampling)
        stopped = deltas[-1].finish_reason is not FinishReason.LENGTH
        return _Answer("".join(delta.text for delta in deltas), stopped)

    async def _likelihood(self, question: AskedRow) -> _Likelihood:
        row = question.row
        sampling = SamplingParams(max_tokens=0, prompt_logprobs=True, top_logprobs=1)
        [delta] = await self._generate(question, "reference", (*row.prompt_ids, *row.answer_ids), sampling)
        assert delta.prompt is not None, "the prompt's logprobs were asked for"
        tokens = zip(delta.prompt[len(row.prompt_ids) :], row.counted, strict=True)
        counted = [token for token, counts in tokens if counts]
        return _Likelihood(tuple(map(_logprob_of, counted)), tuple(token.top[0].id == token.id for token in counted))

    async def _generate(
        self, question: AskedRow, what: str, ids: Sequence[int], sampling: SamplingParams
    ) -> list[Delta]:
        adapter = self._spec.models[question.model_index].adapter
        request = GenerationRequest(
            id=f"{self._job_id}-{question.model_index}-{question.number}-{what}",
            prompt=tuple(ids),
            adapter=None if adapter is None else adapter.adapter_sha256,
            sampling=sampling,
            caller=self._caller,
        )
        async with aclosing(self._engine.generate(request)) as deltas:
            return [delta async for delta in deltas]

    def _score(self, sample: Sample) -> dict[str, float | None]:
        return {metric.name: metric.score(sample) for metric in self._spec.scoring}


def _scored(
    question: AskedRow, scores: dict[str, float | None], *, tokens: int, answer: _Answer | None = None
) -> ScoredRow:
    return ScoredRow(
        model_index=question.model_index,
        row=question.number,
        answer=None if answer is None else answer.text,
        stopped=None if answer is None else answer.stopped,
        tokens=tokens,
        scores=scores,
    )


def _logprob_of(token: PromptToken) -> float:
    assert token.logprob is not None, "only the first token of a prompt has none, and that is no reference's"
    return token.logprob
