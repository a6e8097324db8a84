"""All known defects."""

from tests.planted_defects.known import (
    in_evaluating,
    in_experiments,
    in_hyperparameters,
    in_operation,
    in_optimization,
    in_packing,
    in_ranks,
    in_resuming,
    in_scoring,
    in_serving,
    in_store,
    in_text,
    in_training,
    in_transfer,
)

DEFECTS = (
    *in_evaluating.DEFECTS,
    *in_experiments.DEFECTS,
    *in_hyperparameters.DEFECTS,
    *in_operation.DEFECTS,
    *in_optimization.DEFECTS,
    *in_packing.DEFECTS,
    *in_ranks.DEFECTS,
    *in_resuming.DEFECTS,
    *in_scoring.DEFECTS,
    *in_serving.DEFECTS,
    *in_store.DEFECTS,
    *in_text.DEFECTS,
    *in_training.DEFECTS,
    *in_transfer.DEFECTS,
)
