"""Defects of how examples share a micro-batch, and of what a block computes twice."""

from tests.planted_defects.defect import Defect

DECODER = "tests/worker/training/model/test_decoder.py"
ATTENTION = "tests/worker/training/model/test_attention.py"

DEFECTS = (
    Defect(
        name="16 examples of one padded length are laid over each other",
        in_="worker.training.model.cpu_attention:PaddedSegments.__init__",
        replace="$begins[$width] += $width",
        by="$begins[$width] += 0",
        tests=(f"{DECODER}::TestSegments::test_trap_16_an_example_alone_and_in_any_company_is_the_same",),
    ),
    Defect(
        name="17 our blocks attend over the whole micro-batch, and nobody tries them first",
        in_="worker.training.model.decoder:OwnPass.__call__",
        replace="attention.make_attention($lengths, $$$rest)",
        by="attention.make_attention((sum($lengths),), $$$rest)",
        tests=(f"{DECODER}::TestSegments::test_trap_17_what_stands_in_one_segment_does_not_change_another",),
    ),
    Defect(
        name="17 transformers' modules take a micro-batch for one text",
        in_="worker.training.model.decoder:PackedPass.__call__",
        replace="attention.make_attention($lengths, $$$rest)",
        by="attention.make_attention((sum($lengths),), $$$rest)",
        tests=(f"{DECODER}::TestSegments::test_trap_17_what_stands_in_one_segment_does_not_change_another",),
    ),
    Defect(
        name="packed attention takes no notice of a config's windows",
        in_="worker.training.model.attention:_for_transformers",
        replace="packed($$$given, $sliding_window)",
        by="packed($$$given)",
        tests=(
            f"{DECODER}::TestChoice::"
            "test_transformers_modules_where_a_known_block_has_windows_and_no_input_looks_beyond_its_own",
        ),
    ),
    Defect(
        name="18 a segment's first token is predicted from the segment before it",
        in_="worker.training.data.batches:collate",
        replace="np.flatnonzero($weights_T)",
        by="np.r_[0, np.flatnonzero($weights_T)]",
        tests=(f"{DECODER}::TestSegments::test_trap_18_no_segments_first_token_is_a_target",),
    ),
    Defect(
        name="19 segments' begins leave out the first",
        in_="worker.training.model.attention:cumulative_lengths",
        replace="[0, *accumulate($lengths)]",
        by="[*accumulate($lengths)]",
        tests=(f"{ATTENTION}::test_trap_19_segments_begins_are_strictly_increasing_and_end_at_the_last_input",),
    ),
    Defect(
        name="29 blocks that are computed twice lose the first one's gradient",
        in_="worker.training.model.decoder:OwnPass.run",
        replace="checkpoint($$$given, use_reentrant=False)",
        by="checkpoint($$$given, use_reentrant=True)",
        tests=(f"{DECODER}::TestCheckpointing::test_trap_29_blocks_computed_twice_give_the_same_bits",),
    ),
    Defect(
        name="noise turns a bfloat16 model's states into float32",
        in_="worker.training.model.decoder:_embed",
        replace="($embedded + $noise_NH).to($embedded.dtype)",
        by="$embedded + $noise_NH",
        tests=("tests/worker/training/model/test_noise.py::test_a_run_with_noise_trains_in_either_number_type",),
    ),
    Defect(
        name="noise is scaled by padding too",
        in_="worker.training.model.noise:draw_noise",
        replace="$alpha / ($inputs * $width) ** 0.5",
        by="$alpha / (length * $width) ** 0.5",
        tests=("tests/worker/training/model/test_noise.py::test_an_examples_noise_is_its_own_in_any_company",),
    ),
)
