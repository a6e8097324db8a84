"""What exactly is the model trained on? Each token of one example, with its weight in the loss and the reason for it.

python examples/01_look_at_labels.py [base model: a registered name or a folder]
"""

import json
import sys
from pathlib import Path

from loramill import Renderer

base = sys.argv[1] if len(sys.argv) > 1 else "smollm2-135m-instruct"
example = json.loads((Path(__file__).parent / "train.jsonl").read_text("utf-8").splitlines()[0])

for weight in (0.0, 0.1, 1.0):
    shown = Renderer.of(base, {"prompt_loss_weight": weight}).preview(example)
    print(f"\nprompt_loss_weight {weight:g}: {shown.trained_tokens} of {len(shown.tokens)} tokens are trained on")
    for token in shown.tokens:
        print(f"{token.id:>6}  {token.weight:<4g} {token.reason:<11} {token.text!r}")

# The closing token stands behind the completion: a model that was never trained on it would never stop.
