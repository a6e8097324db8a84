"""What the card of an imported model says: what was verified, and what is not known, by what it came with."""

from core.jobs.imported import ImportSpec
from core.jobs.spec import LoraSpec
from core.provenance.card_parts import INTENDED_USE, CardEvaluation, CardScore
from core.provenance.imported_card import imported_card
from core.serving.adapter_format import CONFIG, IMPORTED_JOB, WEIGHTS, FileDigest, Manifest, TrainedPrompt

SPEC = ImportSpec(
    base_model="base", base_model_fingerprint="f" * 64, filename="the|irs.zip", rendering="verified", lora=LoraSpec()
)
PROMPT = TrainedPrompt(source="a", text="a", ids=(1,))
MANIFEST = Manifest(
    base_model="base",
    base_model_fingerprint="f" * 64,
    tokenizer_sha256="a" * 64,
    chat_template_sha256=None,
    example_format="prompt_completion",
    prompt_format=None,
    prompts=(PROMPT, PROMPT),
    job_id="ftjob-there",
    step=3,
    trained_on="9 tokens | of answers",
    lora=LoraSpec(),
    files={WEIGHTS: FileDigest(sha256="b" * 64, bytes=1), CONFIG: FileDigest(sha256="c" * 64, bytes=1)},
)
STATED = SPEC.model_copy(update={"rendering": "unverified", "lora": None})
OURS = MANIFEST.model_copy(update={"job_id": IMPORTED_JOB, "prompts": (), "trained_on": "not known"})


def sections(card: str) -> dict[str, str]:
    return {part.split("\n")[0]: part for part in card.split("\n## ")}


def test_one_with_a_manifest_says_what_was_verified_and_quotes_the_rest() -> None:
    card = imported_card("ft:x", SPEC, MANIFEST, "d" * 64, None, None)
    found = sections(card)
    assert "It was not trained here" in card
    assert "rank 16" in card
    verified, not_verified = found["What was verified when it came"], found["What was not"]
    assert "are, by their digests, those that its manifest names" in verified
    assert "that its manifest has, 2, are fed here as they were there" in verified
    assert r"Its manifest says: 9 tokens \| of answers." in not_verified
    assert not_verified.count("\n- ") == 1
    assert "| job elsewhere, by its manifest | ftjob-there |" in card


def test_one_without_a_manifest_says_that_what_was_said_of_it_is_not_verified() -> None:
    found = sections(imported_card("ft:x", STATED, OURS, "d" * 64, None, None))
    assert found["What was verified when it came"].count("\n- ") == 1
    not_verified = found["What was not"]
    assert "That it was trained from base: whoever imported it said so" in not_verified
    assert "Whether prompts are fed as in its training" in not_verified
    assert "Its manifest says" not in not_verified
    assert "job elsewhere" not in found["Where it comes from"]


def test_digests_and_the_name_it_was_sent_by_are_told() -> None:
    card = imported_card("ft:x", SPEC, MANIFEST, "d" * 64, None, None)
    assert r"| sent as | the\|irs.zip |" in card
    for digest in ("f", "a", "b", "d"):
        assert digest * 64 in card
    assert f"## Intended use\n\n{INTENDED_USE}\n" in card


def test_its_scores_are_of_rows_that_it_may_have_been_trained_on() -> None:
    score = CardScore(model="ft:x", metric="chrf", mean=0.5, low=0.25, high=0.75)
    evaluation = CardEvaluation(id="eval-1", rows=4, text="", scores=(score,))
    scored = sections(imported_card("ft:x", SPEC, MANIFEST, "d" * 64, None, evaluation))["Scores"]
    assert "| ft:x | chrf | 0.500 (0.250 to 0.750) |" in scored
    assert "4 rows of which nobody here knows whether it was trained on them." in scored
    assert "No evaluation" in sections(imported_card("ft:x", SPEC, MANIFEST, "d" * 64, None, None))["Scores"]
