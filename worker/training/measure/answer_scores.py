"""What held-out answers are worth by a job's metrics: means over those that can be judged.

A trainer answers few prompts, so that a run is not spent on them; what the adapter is worth in the end, an evaluation
says. What a metric is, is ``core.scoring``'s.
"""

from collections.abc import Sequence

from core.errors import NothingToScore
from core.ratio import ratio
from core.scoring.registry import METRICS, SCORED_IN_TRAINING
from core.scoring.sample import Sample
from worker.trainer_process.messages import Evaluated, HeldOutAnswers


def require_scorable(by: str | None, references: Sequence[str]) -> None:
    """Refuse a run whose best is chosen by a metric that nothing it asks for can be scored by.

    Args:
        by: the metric; None: the loss, of which `worker.training.data.examples` makes sure.
        references: of the questions whose answers are judged.

    Raises:
        NothingToScore: not even a perfect answer has a score.
    """
    if by is None or not METRICS[by].needs_answer:
        return
    if not any(METRICS[by].is_defined_for(reference, tokens=0) for reference in references):
        raise NothingToScore(
            f"load_best_model_at_end goes by {by}, and none of the {len(references)} held-out answers that are short "
            "enough to be judged while it trains can be scored by that; name another metric, or true"
        )


def mean_scores(names: Sequence[str], evaluation: Evaluated, answers: HeldOutAnswers | None) -> dict[str, float | None]:
    """Give each metric's mean; None where nothing can be judged by it.

    Those of likelihood are the evaluation's own, over all held-out examples. Metrics that no trainer can score by are
    left out.
    """
    of_all = {"nats_per_token": evaluation.loss, "token_accuracy": evaluation.token_accuracy}
    judged = [answer for answer in (answers.answers if answers is not None else ()) if answer.stopped is not None]
    samples = [Sample(answer=each.got, reference=each.expected, stopped=each.stopped) for each in judged]
    return {
        name: of_all[name] if name in of_all else _mean(name, samples) for name in names if name in SCORED_IN_TRAINING
    }


def _mean(name: str, samples: Sequence[Sample]) -> float | None:
    scores = [score for sample in samples if (score := METRICS[name].score(sample)) is not None]
    return ratio(sum(scores), len(scores))
