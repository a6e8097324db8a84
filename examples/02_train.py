"""Train an adapter on 400 examples, and watch the loss on 60 that it is not trained on. Minutes on two cores.

python examples/02_train.py [base model] [how many examples to train on]
"""

import json
import sys
from pathlib import Path

from loramill import finetune
from loramill.messages import Evaluated, Message, StepDone

base = sys.argv[1] if len(sys.argv) > 1 else "smollm2-135m-instruct"
count = int(sys.argv[2]) if len(sys.argv) > 2 else None  # None: all
data = Path(__file__).parent
examples = [json.loads(line) for line in (data / "train.jsonl").read_text("utf-8").splitlines()]


def show(message: Message) -> None:
    match message:
        case StepDone():
            print(f"step {message.step}/{message.total_steps}  loss {message.loss:.3f}  {message.eta_s:.0f} s left")
        case Evaluated(loss=float()):
            print(f"held out after step {message.step}: {message.loss:.3f} nats per token of the answers")


adapter = finetune(
    base,
    examples[:count],
    {"n_epochs": 2, "batch_size": 8, "seed": 7},  # all else is as a job without it would have it
    out="var/examples/desk",
    validation=data / "heldout.jsonl",  # a file does as well as values
    progress=show,
)
print(f"{adapter} holds {', '.join(sorted(path.name for path in adapter.iterdir()))}")
