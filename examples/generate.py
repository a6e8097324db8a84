"""Makes the example data: messages to a community centre's booking desk, and the record the desk keeps of each.

``python -m examples.generate`` writes train.jsonl and heldout.jsonl beside this file, the same bytes each time.
The messages are invented by the templates below; no real person's words are in them.
"""

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Final

SEED: Final = 20
TRAIN_EXAMPLES: Final = 400
HELDOUT_EXAMPLES: Final = 60

PROMPT: Final = "Make the booking record.\n{message}\nRecord:"

# what callers say, and the desk's own word for it
ROOMS: Final = {
    "hall": ("the main hall", "the big hall"),
    "studio": ("the dance studio", "the mirror room"),
    "clay": ("the pottery room", "the kiln room"),
    "kitchen": ("the kitchen", "the cookery room"),
    "garden": ("the garden room", "the conservatory"),
    "books": ("the library corner", "the reading room"),
}
DAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
HOURS: Final = (9, 10, 11, 14, 15, 16, 18, 19)  # when bookings may start, or half an hour later
PEOPLE: Final = {
    4: "four",
    6: "six",
    8: "eight",
    10: "ten",
    12: "twelve",
    15: "fifteen",
    20: "twenty",
    25: "twenty-five",
    30: "thirty",
}

GREETINGS: Final = ("Hi!", "Hello!", "Good morning!", "Dear all!", "Hi there!", "Good evening!")
ASIDES: Final = (
    "It is for our quilting group.",
    "The choir asked me to write.",
    "Last time the heating was off.",
    "My sister told me about you.",
    "We bring our own tea.",
    "Parking is not needed.",
    "Please call me back.",
    "The chess club sends thanks.",
    "We loved the new paint.",
    "Is the lift working again?",
)

Templates = Mapping[tuple[str, ...], tuple[str, ...]]  # by the facts that a sentence tells
PLACES: Final[Templates] = {
    ("room", "day"): (
        "Could we have {room} on {day}?",
        "Is {room} free this {day}?",
        "We want to book {room} for {day}.",
        "On {day} we would like {room}.",
        "For next {day}, please keep {room} for us.",
    ),
    ("room",): ("Could we have {room}?", "Please book {room}.", "We would like {room}."),
    ("day",): ("We need a room on {day}.", "Is anything free this {day}?", "Next {day} would suit us."),
}
ARRIVALS: Final[Templates] = {
    ("start", "people"): (
        "We are {people} and start at {start}.",
        "Expect {people} people from {start}.",
        "We come at {start}, {people} of us.",
        "Starting at {start}, about {people} guests.",
    ),
    ("start",): ("We start at {start}.", "We come at {start}.", "From {start} on, please."),
    ("people",): ("There will be {people} of us.", "We are {people}.", "Expect {people} people."),
}
MISSING_SHARE: Final = 0.15
TWENTY_FOUR_HOUR_SHARE: Final = 0.2
GREETING_SHARE: Final = 0.4
ASIDE_SHARE: Final = 0.4


def _say_start(rng: random.Random, hour: int, minute: int) -> str:
    if rng.random() < TWENTY_FOUR_HOUR_SHARE:
        return f"{hour}:{minute:02}"
    half = "am" if hour < 12 else "pm"
    return f"{(hour - 1) % 12 + 1}{f':{minute:02}' if minute else ''} {half}"


def _fill(rng: random.Random, templates: Templates, said: dict[str, str]) -> str:
    """Fill a template that has exactly the facts that are said; an empty text when none is."""
    return rng.choice(templates[tuple(said)]).format(**said) if said else ""


def make_example(rng: random.Random) -> dict[str, str]:
    """Draw one message and the record that belongs to it; what the message does not say is null."""
    room, day, people = rng.choice(list(ROOMS)), rng.choice(DAYS), rng.choice(list(PEOPLE))
    hour, minute = rng.choice(HOURS), rng.choice((0, 30))
    record = {"room": room, "day": day[:3].lower(), "start": f"{hour:02}:{minute:02}", "people": people}
    words = {
        "room": rng.choice(ROOMS[room]),
        "day": day,
        "start": _say_start(rng, hour, minute),
        "people": rng.choice((PEOPLE[people], str(people))),
    }
    kept = [fact for fact in words if rng.random() >= MISSING_SHARE] or ["room"]
    sentences = [
        _fill(rng, PLACES, {fact: words[fact] for fact in kept if fact in ("room", "day")}),
        _fill(rng, ARRIVALS, {fact: words[fact] for fact in kept if fact in ("start", "people")}),
        rng.choice(ASIDES) if rng.random() < ASIDE_SHARE else "",
    ]
    rng.shuffle(sentences)
    greeting = rng.choice(GREETINGS) if rng.random() < GREETING_SHARE else ""
    message = " ".join(filter(None, [greeting, *sentences]))
    completion = " " + json.dumps(
        {fact: value if fact in kept else None for fact, value in record.items()}, separators=(",", ":")
    )
    return {"prompt": PROMPT.format(message=message), "completion": completion}


def make_examples(seed: int, held_out: int = HELDOUT_EXAMPLES) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Give training and held-out examples; no record, and so no message, is in both or twice."""
    rng = random.Random(seed)
    examples: dict[str, dict[str, str]] = {}
    while len(examples) < TRAIN_EXAMPLES + held_out:
        example = make_example(rng)
        examples.setdefault(example["completion"], example)
    both = list(examples.values())
    return both[:TRAIN_EXAMPLES], both[TRAIN_EXAMPLES:]


def write(folder: Path) -> None:
    """Write both files into a folder."""
    for name, examples in zip(("train.jsonl", "heldout.jsonl"), make_examples(SEED), strict=True):
        (folder / name).write_text("".join(json.dumps(example) + "\n" for example in examples), "utf-8")


if __name__ == "__main__":
    write(Path(__file__).parent)
