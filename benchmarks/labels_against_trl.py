"""Which tokens Loramill, TRL and transformers train on, from the same examples and tokenizers.

``python -m benchmarks.labels_against_trl --data FILE --tokenizer FOLDER`` prints a table for each
tokenizer. Nothing is trained: TRL's SFTTrainer prepares its data set and its collator makes the batch,
as for prompt and completion with ``completion_only_loss``.
"""

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

from datasets import Dataset, disable_progress_bars
from transformers import AutoTokenizer, DataCollatorForLanguageModeling, LlamaConfig, LlamaForCausalLM
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from core.text.files.examples import Columns, Example, PromptCompletion
from core.text.render_settings import PromptFormat, RenderSettings
from core.text.rendering import Renderer
from core.text.tokenizer import TextTokenizer

ROOT = Path(__file__).resolve().parents[1]
IGNORE_INDEX = -100
PADDED_TO = 2048  # the length to which "labels = input_ids" is usually padded
SHORT = 64  # a max_length that cuts some examples
FORMAT = PromptFormat(prompt="{{prompt}} ", completion="{{completion}}")


@dataclass(frozen=True)
class Pair:
    """One example as a person writes it down."""

    prompt: str
    completion: str


@dataclass(frozen=True)
class Prepared:
    """One example as a trainer sees it; None for an id that is not a target."""

    input_ids: tuple[int, ...]
    labels: tuple[int | None, ...]

    @property
    def trained_ids(self) -> tuple[int, ...]:
        return tuple(label for label in self.labels if label is not None)


@dataclass(frozen=True)
class Variant:
    """A way of writing the same examples, and what Loramill is told about them."""

    name: str
    ends_in: str = ""  # moved from the completion's beginning, or made up, to the prompt's end
    prompt_format: PromptFormat | None = None
    max_length: int | None = None

    def write(self, pair: Pair) -> Pair:
        """Give the example as TRL gets it."""
        return Pair(pair.prompt + self.ends_in, pair.completion.lstrip()) if self.ends_in else pair

    def example(self, pair: Pair, line: int) -> Example:
        """Give the example as Loramill gets it."""
        if self.prompt_format is not None:
            return Columns(line, {"prompt": pair.prompt, "completion": pair.completion.lstrip()})
        written = self.write(pair)
        return PromptCompletion(line, written.prompt, written.completion)


VARIANTS = (
    Variant("completion brings the space"),
    Variant("prompt ends in a newline", ends_in="\n"),
    Variant("prompt ends in a space", ends_in=" "),
    Variant("prompt format ends in a space", ends_in=" ", prompt_format=FORMAT),
    Variant(f"max_length {SHORT}", max_length=SHORT),
)


@dataclass(frozen=True)
class Comparison:
    """One variant over all examples."""

    variant: str
    examples: int
    our_tokens: int
    their_tokens: int
    warned: int  # examples of which TRL says that the prompt is not a beginning of what is trained
    equal: int  # examples with the same ids and the same labels
    why: Counter[str]  # of the others, by reason


def read_pairs(path: Path, count: int) -> list[Pair]:
    """Read the first prompts and completions of a JSONL file."""
    with path.open(encoding="utf-8") as lines:
        return [Pair(line["prompt"], line["completion"]) for line in map(json.loads, islice(lines, count))]


def trl_prepares(folder: Path, pairs: Sequence[Pair], max_length: int | None = None) -> list[Prepared | None]:
    """Give what TRL's collator hands to the model for each pair; None where it dropped the example."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = [{"prompt": pair.prompt, "completion": pair.completion, "row": n} for n, pair in enumerate(pairs)]
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
        )
    )
    with tempfile.TemporaryDirectory() as output:
        trainer = SFTTrainer(
            model=model,
            args=SFTConfig(
                output_dir=output,
                use_cpu=True,
                report_to=[],
                max_steps=1,  # wanted for a stream; it is never taken
                completion_only_loss=True,
                max_length=max_length,
            ),
            # a stream, because a list would be cached under a hash of the tokenizer, which takes seconds to make
            train_dataset=Dataset.from_list(rows).to_iterable_dataset(),
            processing_class=tokenizer,
        )
    prepared: list[Prepared | None] = [None] * len(pairs)
    stream: Any = trainer.train_dataset
    for row in stream:
        batch = trainer.data_collator([{"input_ids": row["input_ids"], "labels": row["labels"]}])
        ids, labels = batch["input_ids"][0].tolist(), batch["labels"][0].tolist()
        prepared[row["row"]] = Prepared(tuple(ids), tuple(None if label == IGNORE_INDEX else label for label in labels))
    return prepared


def we_prepare(folder: Path, pairs: Sequence[Pair], variant: Variant) -> list[Prepared | None]:
    """Give what a job with w = 0 trains on for each pair; None where it drops the example."""
    max_length = variant.max_length or PADDED_TO
    settings = RenderSettings(prompt_format=variant.prompt_format, max_length=max_length)
    renderer = Renderer(TextTokenizer.from_folder(folder), settings)
    prepared: list[Prepared | None] = []
    for line, pair in enumerate(pairs, start=1):
        whole = renderer.example(variant.example(pair, line))
        fitted = renderer.fit(whole)
        if fitted is None:
            prepared.append(None)
            continue
        labels = [i if weight > 0 else None for i, weight in zip(fitted.input_ids, fitted.weights, strict=True)]
        prepared.append(Prepared(fitted.input_ids, tuple(labels)))
    return prepared


def compare(folder: Path, pairs: Sequence[Pair], variant: Variant) -> Comparison:
    """Hold what we train on against what TRL does."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    theirs = trl_prepares(folder, [variant.write(pair) for pair in pairs], variant.max_length)
    ours = we_prepare(folder, pairs, variant)
    warned = equal = 0
    why: Counter[str] = Counter()
    for pair, our, their in zip(pairs, ours, theirs, strict=True):
        prompt_tokens = len(tokenizer(variant.write(pair).prompt)["input_ids"])
        is_warned = their is not None and _context(their) < prompt_tokens
        warned += is_warned
        if our == their:
            equal += 1
        elif our is None:
            is_cut = their is not None and their.input_ids[-1] != tokenizer.eos_token_id
            why["we drop it, TRL cuts the answer and its end" if is_cut else "we drop it"] += 1
        elif is_warned:
            why["TRL trains a token that holds the end of the prompt"] += 1
        else:
            why["other"] += 1
    return Comparison(variant.name, len(pairs), _trained(ours), _trained(theirs), warned, equal, why)


def _trained(prepared: Sequence[Prepared | None]) -> int:
    return sum(len(one.trained_ids) for one in prepared if one is not None)


def _context(prepared: Prepared) -> int:
    """Count the tokens before the first label."""
    return sum(1 for _ in takewhile(lambda label: label is None, prepared.labels))


@dataclass(frozen=True)
class LabelCounts:
    """What the labels of one recipe are made of, over all examples."""

    recipe: str
    prompt: int
    completion: int
    closing: int
    padding: int

    @property
    def total(self) -> int:
        return self.prompt + self.completion + self.closing + self.padding


def count_labels(folder: Path, pairs: Sequence[Pair]) -> list[LabelCounts]:
    """Count what is trained by the recipes that pad one text of both, with the closing token as the pad token."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.eos_token
    collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    examples = [one for one in we_prepare(folder, pairs, VARIANTS[0]) if one is not None]
    prompts = sum(_context(one) for one in examples)
    completions = sum(len(one.trained_ids) - 1 for one in examples)
    padding = sum(PADDED_TO - len(one.input_ids) for one in examples)
    masked = [collator([{"input_ids": [*one.input_ids]}])["labels"][0].tolist() for one in examples]
    unmasked = [[label for label in labels if label != IGNORE_INDEX] for labels in masked]
    ends = sum(labels.count(tokenizer.eos_token_id) for labels in unmasked)
    return [
        LabelCounts("Loramill, w = 0", 0, completions, len(examples), 0),
        LabelCounts("Loramill, w = 1", prompts - len(examples), completions, len(examples), 0),
        LabelCounts(f"labels = input_ids, padded to {PADDED_TO:,}", prompts, completions, len(examples), padding),
        LabelCounts(
            "transformers' collator, pad = closing token",
            sum(map(len, unmasked)) - completions - ends,
            completions,
            ends,
            0,
        ),
    ]


def print_tables(name: str, comparisons: Sequence[Comparison], counts: Sequence[LabelCounts]) -> None:
    """Write both tables in Markdown."""
    print(f"\n{name}\n")
    print("| examples written so that | examples | tokens trained: Loramill | TRL | TRL warns | equal | the others |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | --- |")
    for one in comparisons:
        why = "; ".join(f"{count}: {reason}" for reason, count in one.why.most_common())
        print(
            f"| {one.variant} | {one.examples} | {one.our_tokens:,} | {one.their_tokens:,} "
            f"| {one.warned} | {one.equal} | {why} |"
        )
    print("\n| labels | prompt | completion | closing token | padding | of all, completion and its end |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for count in counts:
        share = (count.completion + count.closing) / count.total
        print(
            f"| {count.recipe} | {count.prompt:,} | {count.completion:,} | {count.closing:,} "
            f"| {count.padding:,} | {share:.1%} |"
        )


def main() -> None:
    """Compare, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=ROOT / "examples" / "train.jsonl", help="prompts and completions")
    parser.add_argument("--examples", type=int, default=200, help="how many of them")
    parser.add_argument("--tokenizer", type=Path, action="append", help="folder of a base model; may be repeated")
    options = parser.parse_args()
    disable_progress_bars()
    pairs = read_pairs(options.data, options.examples)
    for folder in options.tokenizer or [ROOT / "var" / "base-models" / "smollm2-135m-instruct"]:
        comparisons = [compare(folder, pairs, variant) for variant in VARIANTS]
        print_tables(folder.name, comparisons, count_labels(folder, pairs))


if __name__ == "__main__":
    main()
