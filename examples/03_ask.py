"""Ask the base model and the adapter that 02_train.py made the same questions.

python examples/03_ask.py [base model]
"""

import json
import sys
from pathlib import Path

from loramill import LLM

base = sys.argv[1] if len(sys.argv) > 1 else "smollm2-135m-instruct"
adapter = Path("var/examples/desk")
lines = (Path(__file__).parent / "heldout.jsonl").read_text("utf-8").splitlines()
questions = [json.loads(line) for line in lines[:5]]
prompts = [question["prompt"] for question in questions]

with LLM(base, adapters=[adapter]) as llm:
    before = llm.generate(prompts, max_tokens=40)
    after = llm.generate(prompts, adapter=adapter, max_tokens=40)

for question, untrained, trained in zip(questions, before, after, strict=True):
    print(f"\n{question['prompt']}")
    print(f"  expected {question['completion']!r}")
    print(f"  base     {untrained.text!r} ({untrained.finish_reason})")
    print(f"  adapter  {trained.text!r} ({trained.finish_reason})")
