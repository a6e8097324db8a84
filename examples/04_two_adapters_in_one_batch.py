"""One base model in memory, two adapters, and the base model itself: all of them answer in one batch.

Needs the adapter of 02_train.py, and trains a second one, which answers with nothing but the room, or "none".

python examples/04_two_adapters_in_one_batch.py [base model] [how many examples to train on]
"""

import json
import sys
from pathlib import Path

from loramill import LLM, finetune

base = sys.argv[1] if len(sys.argv) > 1 else "smollm2-135m-instruct"
count = int(sys.argv[2]) if len(sys.argv) > 2 else None  # None: all
data = Path(__file__).parent
desk, rooms = Path("var/examples/desk"), Path("var/examples/rooms")

if not rooms.exists():
    examples = [json.loads(line) for line in (data / "train.jsonl").read_text("utf-8").splitlines()]
    only_rooms = [
        {"prompt": example["prompt"], "completion": f" {json.loads(example['completion'])['room'] or 'none'}"}
        for example in examples[:count]
    ]
    finetune(base, only_rooms, {"n_epochs": 2, "batch_size": 8, "seed": 7, "lora": {"rank": 8}}, out=rooms)

prompt = json.loads((data / "heldout.jsonl").read_text("utf-8").splitlines()[0])["prompt"]
with LLM(base, adapters=[desk, rooms]) as llm:
    answers = llm.generate([prompt] * 3, adapter=[None, desk, rooms], max_tokens=40)

print(prompt)
for who, answer in zip(("base", "desk", "rooms"), answers, strict=True):
    print(f"  {who:<6} {answer.text!r} ({answer.finish_reason}, {len(answer.ids)} tokens)")
