"""``python -m tests.faults [NAME...]``: makes faults happen to real processes and prints what came of them.

The exit status is 1 when an expectation failed. What this machine does not allow is left out, visibly.
"""

import argparse
import shutil
import sys
import tempfile
import traceback
from pathlib import Path

from app.cli.columns import align
from tests.faults.invariants import Figures
from tests.faults.scenario import Impossible, Scenario
from tests.faults.scenarios import SCENARIOS

HEADER = ("scenario", "result", "accepted", "lost", "doubled", "succeeded", "repeated", "seconds", "")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="scenarios to run; none named: all")
    parser.add_argument("--list", action="store_true", help="list the scenarios and what is expected of each")
    options = parser.parse_args()
    unknown = sorted(set(options.names) - SCENARIOS.keys())
    if unknown:
        parser.error(f"no scenario is called {', '.join(unknown)}; --list names them")
    chosen = [SCENARIOS[name] for name in options.names or SCENARIOS]
    if options.list:
        print(align([(scenario.name, scenario.expected) for scenario in chosen]))
        return 0
    rows = []
    for scenario in chosen:
        print(f"{scenario.name}: {scenario.expected} …", file=sys.stderr, flush=True)
        rows.append(_run(scenario))
    print(align([HEADER, *rows]))
    print("lost: not what the job had to become; repeated: trained from step 0 although there was a checkpoint")
    return int(any(row[1] == "failed" for row in rows))


def _run(scenario: Scenario) -> tuple[str, ...]:
    """Give the scenario's row of the table."""
    folder = Path(tempfile.mkdtemp(prefix="loramill-fault-"))
    try:
        figures = scenario.run(folder / "home")
    except Impossible as reason:
        return _row(scenario, "left out", None, str(reason))
    except Exception as problem:
        traceback.print_exc()
        print(f"{scenario.name}: its logs are in {folder}", file=sys.stderr)
        return _row(scenario, "failed", None, " ".join([type(problem).__name__, *str(problem).splitlines()[:1]]))
    shutil.rmtree(folder, ignore_errors=True)
    kept = figures.lost == figures.doubled == figures.repeated == 0
    return _row(scenario, "as expected" if kept else "failed", figures, "; ".join(figures.remarks))


def _row(scenario: Scenario, result: str, figures: Figures | None, remark: str) -> tuple[str, ...]:
    if figures is None:
        return (scenario.name, result, *["-"] * 6, remark)
    numbers = (figures.accepted, figures.lost, figures.doubled, figures.succeeded, figures.repeated)
    return (scenario.name, result, *map(str, numbers), f"{figures.seconds:.0f}", remark)


if __name__ == "__main__":
    sys.exit(main())
