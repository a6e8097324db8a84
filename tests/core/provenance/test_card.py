"""What a model's card says, and what it leaves to others."""

from pathlib import Path

from core.base_models.registry import BaseModelEntry, Folder, Hub
from core.provenance.card import model_card
from core.provenance.card_parts import INTENDED_USE, CardEvaluation, CardScore
from core.provenance.manifest import ContinuedFrom, Parents
from core.provenance.origins import ExperimentPlace
from core.provenance.record import Stint
from tests.core.provenance.manifests import manifest

EVALUATION = CardEvaluation(
    id="eval-1",
    rows=40,
    text="ft:x is better than base on exact_match.",
    scores=(
        CardScore(model="base", metric="exact_match", mean=0.25, low=0.125, high=0.375),
        CardScore(model="ft:x", metric="exact_match", mean=0.75, low=0.625, high=0.875),
        CardScore(model="ft:x", metric="chrf", mean=None, low=None, high=None),
    ),
)


ON_HUB = BaseModelEntry(name="base", source=Hub(id="org/model", revision="a" * 40), license="mit")


def head_of(base: BaseModelEntry | None) -> str:
    return model_card("ft:x", manifest(), base, None).split("---\n")[1]


def test_its_head_names_what_hubs_read_as_far_as_it_is_known() -> None:
    assert 'base_model: org/model\nlicense: "mit"\n' in head_of(ON_HUB)
    local = ON_HUB.model_copy(update={"source": Folder(path=Path("/models/base")), "license": None})
    for base in (local, None):
        assert "base_model" not in head_of(base)
        assert "license" not in head_of(base)
        assert "library_name: peft\n" in head_of(base)


def test_it_says_where_the_base_model_is_and_under_which_licence() -> None:
    card = model_card("ft:x", manifest(), ON_HUB, None)
    assert f"on the hub org/model at revision {'a' * 40}" in card
    assert "## Licences\n\nbase is licensed under mit, which binds" in card
    assert "The licence of base is not known here" in model_card("ft:x", manifest(), None, None)


def test_it_says_what_the_model_learnt_from_in_the_jobs_own_sentence() -> None:
    card = model_card("ft:x", manifest(), None, None)
    assert "## What it was trained on\n\n9 tokens.\n" in card
    assert f"| training | file-1 | 100 | {'1' * 64} |" in card


def test_it_shows_held_out_scores_with_their_intervals() -> None:
    card = model_card("ft:x", manifest(), None, EVALUATION)
    assert r"ft:x is better than base on exact\_match." in card
    assert r"| base | exact\_match | 0.250 (0.125 to 0.375) |" in card
    assert r"| ft:x | exact\_match | 0.750 (0.625 to 0.875) |" in card
    assert "| ft:x | chrf | – |" in card
    assert "Evaluation eval-1, 40 rows" in card


def test_without_an_evaluation_it_says_so_and_calls_nothing_an_interval() -> None:
    scored = manifest()
    assert scored.results is not None
    results = scored.results.model_copy(update={"metrics": {"train_loss": 0.1, "full_valid_loss": 0.5}})
    card = model_card("ft:x", scored.model_copy(update={"results": results}), None, None)
    assert "No evaluation of this model is recorded." in card
    assert r"| full\_valid\_loss | 0.5 |" in card
    assert r"train\_loss" not in card


def test_what_it_is_for_is_left_to_its_owner() -> None:
    assert f"## Intended use\n\n{INTENDED_USE}\n" in model_card("ft:x", manifest(), None, None)


def test_it_names_libraries_and_no_host() -> None:
    stint = Stint(from_step=0, host="secret-host", system="secret-system", environment={"torch": "2.0"})
    card = model_card("ft:x", manifest(stints=(stint,)), None, None)
    assert "| torch | 2.0 |" in card
    assert "secret" not in card


def test_two_machines_are_told_apart_by_their_steps() -> None:
    stints = tuple(Stint(from_step=n, host=f"h{n}", system="s", environment={"torch": f"2.{n}"}) for n in (0, 5))
    card = model_card("ft:x", manifest(stints=stints), None, None)
    assert card.index("From step 0 on:") < card.index("| torch | 2.0 |") < card.index("From step 5 on:")


def test_what_was_not_recorded_is_said_to_be() -> None:
    card = model_card("ft:x", manifest(stints=(), weights=None), None, None)
    assert "Libraries and machine: not recorded." in card
    assert "| weights | SHA-256 not recorded |" in card


def test_names_cannot_change_the_page() -> None:
    format_ = {"prompt": "# {{q}} | <b>\n\n## Scores", "completion": "{{a}}"}
    card = model_card("ft:base:org:a_b*c:1", manifest(prompt_format=format_), None, None)
    assert r"# ft:base:org:a\_b\*c:1" in card
    assert not any(line.startswith("## Scores") for line in card.splitlines())
    assert "<b>" not in card.replace(r"\<b\>", "")


def test_a_checkpoint_is_called_one_and_has_none_of_the_results_digests() -> None:
    card = model_card("ft:x:ckpt-step-2", manifest(), None, None, checkpoint_step=2)
    assert "A checkpoint after step 2: an adapter" in card
    assert "w" * 64 not in card


def test_parents_are_named() -> None:
    parents = Parents(
        continue_from=ContinuedFrom(name="ft:y", adapter_sha256="a" * 64, job="ftjob-0"),
        experiment=ExperimentPlace(id="exp-1", arm="w = 0", seed=3, rate_factor=1.0),
        rerun_of="ftjob-9",
    )
    card = model_card("ft:x", manifest().model_copy(update={"parents": parents}), None, None)
    assert f"| went on from | ft:y, SHA-256 {'a' * 64} |" in card
    assert "| run of experiment | exp-1, arm w = 0, seed 3 |" in card
    assert "| made again from | job ftjob-9 |" in card


def test_the_same_model_has_the_same_card() -> None:
    assert model_card("ft:x", manifest(), None, EVALUATION) == model_card("ft:x", manifest(), None, EVALUATION)
