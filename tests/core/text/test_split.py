from core.text.split import held_out


def test_about_a_tenth_is_held_out() -> None:
    held = sum(held_out(f"prompt {n}", seed=0) for n in range(10_000))
    assert 900 < held < 1100


def test_the_choice_depends_on_prompt_and_seed_alone() -> None:
    first = [held_out(f"prompt {n}", seed=1) for n in range(100)]
    assert first == [held_out(f"prompt {n}", seed=1) for n in range(100)]
    assert first != [held_out(f"prompt {n}", seed=2) for n in range(100)]


def test_the_choice_stays_the_same_across_versions() -> None:
    assert [n for n in range(60) if held_out(f"prompt {n}", seed=7)] == [28, 38, 39, 54, 56]
