"""Defects by which several ranks train another adapter than one would, or wait for one another for ever."""

from tests.planted_defects.defect import Defect

RANKS = "tests/worker/training/process/test_ranks.py"
LAUNCH = "tests/worker/training/process/test_launch.py"
SAME = f"{RANKS}::TestTwoRanks::test_they_train_the_adapter_of_one_and_only_the_first_says_so"

DEFECTS = (
    Defect(
        name="gradients of ranks are averaged, though each is divided by the step's whole weight",
        in_="worker.training.process.ranks:Ranks.sum_gradients",
        replace="dist.all_reduce($flat)",
        by=("dist.all_reduce($flat)\n$flat /= self.size"),
        tests=(SAME,),
    ),
    Defect(
        name="a rank seeds dropout by its own count of micro-batches",
        in_="worker.training.process.ranks:Ranks.share",
        replace="yield $number, $items[$number]",
        by="yield first // self.size, $items[$number]",
        tests=(SAME,),
    ),
    Defect(
        name="a rank that is told to stop stops alone",
        in_="worker.training.process.ranks:Ranks._synchronized",
        replace="self.any(True)",
        by="pass",
        tests=(f"{RANKS}::test_a_stop_that_one_sees_stops_both_and_they_go_on_to_the_same_bits",),
    ),
    Defect(
        name="adapters of ranks that differ are not noticed",
        in_="worker.training.process.ranks:Ranks.require_equal",
        replace="$largest != -$minus_smallest",
        by="False",
        tests=(f"{RANKS}::test_adapters_that_differ_by_a_bit_are_written_by_nobody",),
    ),
    Defect(
        name="a rank that loses the others says that the job failed",
        in_="worker.training.process.ranks:_needing_peers",
        replace="RuntimeError",
        by="TimeoutError",
        tests=(f"{RANKS}::test_a_rank_that_is_killed_takes_the_other_with_it_which_blames_nobody",),
    ),
    Defect(
        name="a failure of a rank that does not lead is heard by nobody",
        in_="worker.training.process.launch:main",
        replace="$code == EXIT_FAILED != $codes[0]",
        by="$code == EXIT_FAILED == $codes[0]",
        tests=(f"{LAUNCH}::TestFakeRanks::test_one_that_fails_alone_is_heard",),
    ),
)
