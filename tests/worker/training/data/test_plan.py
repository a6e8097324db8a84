import itertools

import pytest

from worker.training.data.plan import MICRO_BATCH_COST_TOKENS, TrainingPlan, epoch_order, mix, pack, pack_padded


class TestEpochOrder:
    def test_is_a_permutation(self) -> None:
        assert sorted(epoch_order(3, 1, 1000).tolist()) == list(range(1000))

    def test_differs_by_seed_and_epoch(self) -> None:
        orders = {tuple(epoch_order(seed, epoch, 50).tolist()) for seed in range(3) for epoch in range(3)}
        assert len(orders) == 9

    def test_never_changes_between_versions(self) -> None:
        assert epoch_order(0, 0, 8).tolist() == [2, 6, 5, 3, 0, 4, 7, 1]

    def test_puts_every_example_everywhere_about_equally_often(self) -> None:
        firsts = [int(epoch_order(0, epoch, 4)[0]) for epoch in range(2000)]
        assert all(400 < firsts.count(example) < 600 for example in range(4))


def test_mix_depends_on_the_order_of_its_counters() -> None:
    values = {mix(*counters) for counters in itertools.product(range(5), repeat=3)}
    assert len(values) == 125
    assert all(0 <= value < 2**64 for value in values)


class TestPack:
    lengths = tuple((index * 37) % 90 + 10 for index in range(40))

    @pytest.mark.parametrize("ranks", [1, 3])
    @pytest.mark.parametrize("budget", [1, 99, 256, 10_000])
    def test_takes_every_example_once(self, budget: int, ranks: int) -> None:
        assert sorted(itertools.chain(*pack(self.lengths, budget, ranks=ranks))) == list(range(40))

    def test_keeps_the_budget(self) -> None:
        for members in pack(self.lengths, 256):
            assert sum(self.lengths[member] for member in members) <= 256

    def test_leaves_an_example_over_the_budget_alone(self) -> None:
        assert sorted(pack([20, 300, 30], 100)) == [[1], [2, 0]]

    def test_fills_as_few_as_it_needs_about_equally(self) -> None:
        sums = [sum(self.lengths[member] for member in members) for members in pack(self.lengths, 1024)]
        assert len(sums) == -(-sum(self.lengths) // 1024)
        assert max(sums) - min(sums) <= max(self.lengths)

    def test_is_the_same_for_every_rank(self) -> None:
        batches = pack(self.lengths, 512, ranks=3)
        assert len(batches) % 3 == 0
        assert batches == pack(self.lengths, 512, ranks=3)

    def test_has_no_empty_micro_batch_where_examples_are_few(self) -> None:
        assert sorted(pack([5, 6], 100, ranks=4)) == [[0], [1]]


class TestPackPadded:
    def test_takes_every_example_once(self) -> None:
        lengths = [5, 90, 33, 5, 60, 12, 90]
        assert sorted(itertools.chain(*pack_padded(lengths, 200))) == list(range(7))

    def test_separates_long_from_short(self) -> None:
        assert pack_padded([10, 90, 12, 88], 1000) == [[1, 3], [2, 0]]

    def test_joins_what_costs_less_together(self) -> None:
        assert pack_padded([50, 52, 51], 1000) == [[1, 2, 0]]

    def test_keeps_the_budget_with_padding_counted(self) -> None:
        lengths = [(index * 37) % 90 + 10 for index in range(40)]
        for members in pack_padded(lengths, 256):
            assert max(lengths[member] for member in members) * len(members) <= 256

    def test_leaves_an_example_over_the_budget_alone(self) -> None:
        assert pack_padded([300, 20], 100) == [[0], [1]]

    @pytest.mark.parametrize("budget", [60, 100, 10_000])
    def test_is_never_worse_than_any_other_cut(self, budget: int) -> None:
        lengths = [7, 50, 21, 22, 48, 9]
        order = sorted(lengths, reverse=True)

        def cost(cuts: tuple[int, ...]) -> float:
            edges = [0, *cuts, len(order)]
            parts = [order[begin:end] for begin, end in itertools.pairwise(edges)]
            if any(part[0] * len(part) > budget and len(part) > 1 for part in parts):
                return float("inf")
            return sum(part[0] * len(part) + MICRO_BATCH_COST_TOKENS for part in parts)

        inner = range(1, len(order))
        best = min(cost(cuts) for count in range(len(order)) for cuts in itertools.combinations(inner, count))
        batches = pack_padded(lengths, budget)
        packed = sum(lengths[members[0]] * len(members) + MICRO_BATCH_COST_TOKENS for members in batches)
        assert packed == best


class TestPlan:
    plan = TrainingPlan(n_examples=23, batch_size=5, n_epochs=3, seed=1)

    def test_every_epoch_takes_every_example_once(self) -> None:
        for epoch in range(3):
            steps = range(epoch * 5, epoch * 5 + 5)
            assert sorted(itertools.chain(*map(self.plan.members_of, steps))) == list(range(23))

    def test_a_step_has_the_batch_size_but_the_last_of_an_epoch(self) -> None:
        assert [len(self.plan.members_of(step)) for step in range(5)] == [5, 5, 5, 5, 3]

    def test_epochs_differ(self) -> None:
        assert self.plan.members_of(0) != self.plan.members_of(5)

    def test_evaluates_before_the_first_step_and_after_the_last(self) -> None:
        assert self.plan.evaluated_after == {0, 4, 8, 11, 15}

    def test_a_run_of_one_step_is_evaluated_twice(self) -> None:
        assert TrainingPlan(3, 5, 1, 0).evaluated_after == {0, 1}
