"""One test for each known way of training on the wrong tokens that shows in text, ids and weights.

What is right for an example stands in ``tests/golden``, from the raw tokenizers and from bytes;
``tests/worker/training/traps/test_traps.py`` has the ways that show in tensors.
"""

import json
from functools import cache
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from core.errors import ExampleOverLength
from core.text.files.examples import LineProblem, example_of
from core.text.rendering import Reason, RenderedExample, Renderer
from core.text.tokenizer import TextTokenizer
from tests.harness.golden_files import IGNORE_INDEX, GoldenCase, cases, cases_of, golden_names, labels_of, read_golden
from tests.harness.models.byte_tokenizer import END_OF_TEXT, TURN_START, write_byte_tokenizer

BOS_CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "[{{ m.role }}\n{{ m.content }}{{ eos_token if m.role == 'assistant' else ']' }}"
    "{% endfor %}{% if add_generation_prompt %}[assistant\n{% endif %}"
)
FIXTURE_OF = {"byte": "byte_folder", "byte-bos": "byte_bos_folder", "phi-2": "phi2_folder", "smollm2": "smollm2_folder"}


@pytest.fixture(scope="session")
def byte_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("byte")
    write_byte_tokenizer(folder)
    return folder


@pytest.fixture(scope="session")
def byte_bos_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte tokenizer that begins each text with <|im_start|>, as its chat template does too."""
    folder = tmp_path_factory.mktemp("byte-bos")
    write_byte_tokenizer(folder, chat_template=BOS_CHAT_TEMPLATE)
    path = folder / "tokenizer_config.json"
    changes = {"add_bos_token": True, "bos_token": "<|im_start|>"}
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


@pytest.fixture
def folder(golden: GoldenCase, request: pytest.FixtureRequest) -> Path:
    """Folder of the case's tokenizer."""
    found: Path = request.getfixturevalue(FIXTURE_OF[golden.tokenizer])
    return found


@cache
def tokenizer_in(folder: Path) -> TextTokenizer:
    return TextTokenizer.from_folder(folder)


@pytest.fixture
def tokenizer(folder: Path) -> TextTokenizer:
    return tokenizer_in(folder)


def renderer_of(golden: GoldenCase, tokenizer: TextTokenizer) -> Renderer:
    return Renderer(tokenizer, golden.job)


def fitted(golden: GoldenCase, tokenizer: TextTokenizer) -> RenderedExample | None:
    renderer = renderer_of(golden, tokenizer)
    example = renderer.example(example_of(golden.example, line=1))
    return renderer.fit(example)


def assert_golden(golden: GoldenCase, tokenizer: TextTokenizer) -> RenderedExample:
    """Hold an example, and what inference feeds for it, against its golden tokens."""
    example = fitted(golden, tokenizer)
    assert example is not None
    texts = [tokenizer.token_text(token_id) for token_id in example.input_ids]
    rows = zip(example.input_ids, texts, example.weights, labels_of(example), strict=True)
    assert list(rows) == golden.tokens
    fed_ids = tuple(row[0] for row in golden.tokens[: golden.fed_tokens])
    assert example.prompt_ids == fed_ids
    assert example.moved == golden.moved
    if golden.asked is not None:
        fed = renderer_of(golden, tokenizer).prompt(golden.asked)
        assert (fed.ids, fed.moved) == (fed_ids, golden.moved)
    return example


@cache
def raw_tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


@cases(*golden_names())
def test_golden_ids_are_the_raw_tokenizers(golden: GoldenCase, folder: Path) -> None:
    """Independent of all our code: each piece tokenised alone, one behind the other."""
    raw = raw_tokenizer(folder)
    ids = [token_id for piece in golden.pieces for token_id in raw.encode(piece, add_special_tokens=False).ids]
    assert [row[0] for row in golden.tokens] == ids
    assert all(label == (token_id if weight > 0 else IGNORE_INDEX) for token_id, _, weight, label in golden.tokens)


@cases("01-border-merge")
def test_trap_01_a_space_at_the_border_does_not_merge_into_the_next_word(
    golden: GoldenCase, tokenizer: TextTokenizer
) -> None:
    example = assert_golden(golden, tokenizer)
    fed, *answer = golden.pieces
    assert example.prompt_ids == tuple(tokenizer.encode(fed))
    assert example.text == "".join([fed, *answer])


def test_trap_01_these_borders_do_merge_in_one_text(smollm2: TextTokenizer) -> None:
    """What makes the golden cases hard: tokenised as one text they give other ids."""
    merged = [
        golden
        for golden in cases_of("01-border-merge")
        if golden.tokenizer == "smollm2" and smollm2.encode("".join(golden.pieces)) != [row[0] for row in golden.tokens]
    ]
    assert [golden.case.removeprefix("smollm2: ") for golden in merged] == [
        "a prompt that ends in a space stays as the client wrote it",
        "a word cut in two stays two tokens",
        "two newlines at the border stay two tokens",
    ]


@cases("02-no-marker-search")
def test_trap_02_the_mask_is_built_from_parts_and_no_words_are_searched_for(
    golden: GoldenCase, tokenizer: TextTokenizer
) -> None:
    example = assert_golden(golden, tokenizer)
    assert tokenizer.decode(example.prompt_ids, skip_special=False) == golden.pieces[0]


@cases("03-prompt-length")
def test_trap_03_as_many_tokens_are_masked_as_the_prompt_has_ids(golden: GoldenCase, tokenizer: TextTokenizer) -> None:
    example = assert_golden(golden, tokenizer)
    prompt_weights = example.weights[: len(tokenizer.encode(golden.pieces[0]))]
    assert prompt_weights == (0.0, *[golden.job.prompt_loss_weight] * (golden.fed_tokens - 1))


@cases("04-closing-token")
def test_trap_04_the_last_label_is_the_closing_token_and_it_stands_once(
    golden: GoldenCase, tokenizer: TextTokenizer
) -> None:
    example = assert_golden(golden, tokenizer)
    assert labels_of(example)[-1] == tokenizer.eos_id
    assert example.input_ids.count(tokenizer.eos_id) == 1


@cases("05-padding-is-no-id")
def test_trap_05_an_id_that_padding_uses_keeps_its_label_inside_an_example(
    golden: GoldenCase, tokenizer: TextTokenizer
) -> None:
    example = assert_golden(golden, tokenizer)
    answer = example.input_ids[golden.fed_tokens :]
    assert labels_of(example)[golden.fed_tokens :] == list(answer)


@cases("06-truncation")
def test_trap_06_a_limit_never_cuts_an_answer_or_its_closing_token(
    golden: GoldenCase, tokenizer: TextTokenizer
) -> None:
    if golden.outcome == "refused":
        with pytest.raises(ExampleOverLength):
            fitted(golden, tokenizer)
        return
    if golden.outcome == "dropped":
        assert fitted(golden, tokenizer) is None
        return
    example = assert_golden(golden, tokenizer)
    assert labels_of(example)[-1] == tokenizer.eos_id
    cut = [segment for segment in example.segments if segment.reason is Reason.TRUNCATED]
    assert "".join(segment.text for segment in cut) == golden.cut_text
    assert {segment.weight for segment in cut} <= {0.0}


@pytest.mark.parametrize("line", read_golden("07-nothing-to-learn")["refused"], ids=repr)
def test_trap_07_an_empty_answer_is_no_example(line: dict[str, object]) -> None:
    with pytest.raises(LineProblem) as caught:
        example_of(line, line=3)
    assert (caught.value.line, caught.value.code) == (3, "empty_completion")


@cases("09-labels-are-the-inputs")
def test_trap_09_a_label_is_masked_or_the_id_at_its_own_place(golden: GoldenCase, tokenizer: TextTokenizer) -> None:
    example = assert_golden(golden, tokenizer)
    assert len(labels_of(example)) == len(example.input_ids)


@cases("10-one-beginning")
def test_trap_10_what_begins_a_text_stands_once_and_at_the_front(golden: GoldenCase, tokenizer: TextTokenizer) -> None:
    example = assert_golden(golden, tokenizer)
    beginnings = [place for place, token_id in enumerate(example.input_ids) if token_id == TURN_START]
    assert beginnings == ([0] if golden.tokenizer == "byte-bos" else [])


@cases("11-prompts-served-are-prompts-trained")
def test_trap_11_a_request_is_fed_as_the_example_was_trained(golden: GoldenCase, tokenizer: TextTokenizer) -> None:
    example = assert_golden(golden, tokenizer)
    assert golden.asked is not None
    fed = renderer_of(golden, tokenizer).prompt(golden.asked)
    assert fed.ids == example.input_ids[: len(fed.ids)]
    assert labels_of(example)[len(fed.ids)] != IGNORE_INDEX


@cases("12-every-turns-end")
def test_trap_12_the_token_that_closes_a_trained_turn_is_a_label(golden: GoldenCase, tokenizer: TextTokenizer) -> None:
    example = assert_golden(golden, tokenizer)
    for answer, end in zip(example.segments, example.segments[1:], strict=False):
        if answer.text in ("yo", "ok"):
            assert len(end.ids) == 1
            assert end.ids[0] in tokenizer.end_ids - {END_OF_TEXT}
            assert end.weight == answer.weight
