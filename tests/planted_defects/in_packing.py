"""Defects of how examples share a micro-batch, and of what a block computes twice."""

from tests.planted_defects.defect import Defect

DECODER = "tests/worker/training/model/test_decoder.py"
ATTENTION = "tests/worker/training/model/test_attention.py"

DEFECTS = (
    Defect(
        "16 examples of one padded length are laid over each other",
        "worker/training/model/cpu_attention.py",
        "            begins[width] += width\n",
        "            begins[width] += 0\n",
        (f"{DECODER}::TestSegments::test_trap_16_an_example_alone_and_in_any_company_is_the_same",),
    ),
    Defect(
        "17 our blocks attend over the whole micro-batch, and nobody tries them first",
        "worker/training/model/decoder.py",
        "made = attention.make_attention(batch.lengths, ",
        "made = attention.make_attention((sum(batch.lengths),), ",
        (f"{DECODER}::TestSegments::test_trap_17_what_stands_in_one_segment_does_not_change_another",),
    ),
    Defect(
        "17 transformers' modules take a micro-batch for one text",
        "worker/training/model/decoder.py",
        "packed = attention.make_attention(batch.lengths, ",
        "packed = attention.make_attention((sum(batch.lengths),), ",
        (f"{DECODER}::TestSegments::test_trap_17_what_stands_in_one_segment_does_not_change_another",),
    ),
    Defect(
        "18 a segment's first token is predicted from the segment before it",
        "worker/training/data/batches.py",
        "    scored = [np.flatnonzero(weights_T) for weights_T in weights]\n",
        "    scored = [np.r_[0, np.flatnonzero(weights_T)] for weights_T in weights]\n",
        (f"{DECODER}::TestSegments::test_trap_18_no_segments_first_token_is_a_target",),
    ),
    Defect(
        "19 segments' begins leave out the first",
        "worker/training/model/attention.py",
        "[0, *accumulate(lengths)]",
        "[*accumulate(lengths)]",
        (f"{ATTENTION}::test_trap_19_segments_begins_are_strictly_increasing_and_end_at_the_last_input",),
    ),
    Defect(
        "29 blocks that are computed twice lose the first one's gradient",
        "worker/training/model/decoder.py",
        "checkpoint(block, layer, states, inputs, rows, use_reentrant=False)",
        "checkpoint(block, layer, states, inputs, rows, use_reentrant=True)",
        (f"{DECODER}::TestCheckpointing::test_trap_29_blocks_computed_twice_give_the_same_bits",),
    ),
    Defect(
        "noise turns a bfloat16 model's states into float32",
        "worker/training/model/decoder.py",
        "(embedded + noise_NH).to(embedded.dtype)",
        "embedded + noise_NH",
        ("tests/worker/training/model/test_noise.py::test_a_run_with_noise_trains_in_either_number_type",),
    ),
    Defect(
        "noise is scaled by padding too",
        "worker/training/model/noise.py",
        "alpha / (inputs * width)",
        "alpha / (length * width)",
        ("tests/worker/training/model/test_noise.py::test_an_examples_noise_is_its_own_in_any_company",),
    ),
)
