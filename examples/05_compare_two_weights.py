"""Loss on the answers only, or on all of the text? Train both ways, and score both on the same held-out answers.

What is compared is one run of each, with one seed, on this data: a difference of a few answers can be chance, and
says nothing of other data. Minutes on two cores.

python examples/05_compare_two_weights.py [base model] [how many examples to train on]
"""

import json
import shutil
import sys
from pathlib import Path

from loramill import LLM, finetune
from loramill.messages import Evaluated, Message

base = sys.argv[1] if len(sys.argv) > 1 else "smollm2-135m-instruct"
count = int(sys.argv[2]) if len(sys.argv) > 2 else None  # None: all
data = Path(__file__).parent
held_out = [json.loads(line) for line in (data / "heldout.jsonl").read_text("utf-8").splitlines()]
examples = [json.loads(line) for line in (data / "train.jsonl").read_text("utf-8").splitlines()][:count]
weights = (0.0, 1.0)
losses: dict[float, float] = {}
right: dict[float, list[bool]] = {}

for weight in weights:

    def note_loss(message: Message, weight: float = weight) -> None:
        if isinstance(message, Evaluated) and message.loss is not None:
            losses[weight] = message.loss  # of the answers' tokens, whatever a prompt's weigh; the last one stays

    settings = {"prompt_loss_weight": weight, "n_epochs": 2, "batch_size": 8, "seed": 7, "n_evals": 1}
    folder = Path(f"var/examples/weight-{weight:g}")
    shutil.rmtree(folder, ignore_errors=True)  # of an earlier comparison
    finetune(base, examples, settings, out=folder, validation=held_out, progress=note_loss)
    with LLM(base) as llm:
        answers = llm.generate([question["prompt"] for question in held_out], adapter=folder, max_tokens=40)
    right[weight] = [
        answer.finish_reason == "end" and answer.text == question["completion"]
        for answer, question in zip(answers, held_out, strict=True)
    ]

print(f"trained on {len(examples)} examples, scored on {len(held_out)} held-out answers")
for weight in weights:
    exact = sum(right[weight])
    print(f"prompt_loss_weight {weight:g}: {losses[weight]:.4f} nats per token, {exact} right to the letter")
pairs = list(zip(right[0.0], right[1.0], strict=True))
print(f"right with 0 alone: {pairs.count((True, False))}; right with 1 alone: {pairs.count((False, True))}")
print("One run of each, with one seed: not enough to say which is better in general.")
