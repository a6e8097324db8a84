"""Defects by which several ranks train another adapter than one would, or wait for one another for ever."""

from tests.planted_defects.defect import Defect

RANKS = "tests/worker/training/process/test_ranks.py"
LAUNCH = "tests/worker/training/process/test_launch.py"
SAME = f"{RANKS}::TestTwoRanks::test_they_train_the_adapter_of_one_and_only_the_first_says_so"

DEFECTS = (
    Defect(
        "gradients of ranks are averaged, though each is divided by the step's whole weight",
        "worker/training/process/ranks.py",
        "            dist.all_reduce(flat)\n",
        "            dist.all_reduce(flat)\n            flat /= self.size\n",
        (SAME,),
    ),
    Defect(
        "a rank seeds dropout by its own count of micro-batches",
        "worker/training/process/ranks.py",
        "                yield number, items[number]\n",
        "                yield first // self.size, items[number]\n",
        (SAME,),
    ),
    Defect(
        "a rank that is told to stop stops alone",
        "worker/training/process/ranks.py",
        "            self.any(True)\n",
        "",
        (f"{RANKS}::test_a_stop_that_one_sees_stops_both_and_they_go_on_to_the_same_bits",),
    ),
    Defect(
        "adapters of ranks that differ are not noticed",
        "worker/training/process/ranks.py",
        "        if largest != -minus_smallest:\n",
        "        if False:\n",
        (f"{RANKS}::test_adapters_that_differ_by_a_bit_are_written_by_nobody",),
    ),
    Defect(
        "a rank that loses the others says that the job failed",
        "worker/training/process/ranks.py",
        "    except RuntimeError as error:  # torch has no one class for it\n",
        "    except TimeoutError as error:\n",
        (f"{RANKS}::test_a_rank_that_is_killed_takes_the_other_with_it_which_blames_nobody",),
    ),
    Defect(
        "a failure of a rank that does not lead is heard by nobody",
        "worker/training/process/launch.py",
        "    if code == EXIT_FAILED != codes[0]:\n",
        "    if code == EXIT_FAILED == codes[0]:\n",
        (f"{LAUNCH}::TestFakeRanks::test_one_that_fails_alone_is_heard",),
    ),
)
