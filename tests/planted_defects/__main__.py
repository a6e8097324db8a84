"""Plants all known defects, or those whose names begin with an argument: 0 if the tests catch each of them."""

import argparse
import sys

from tests.planted_defects.anchor import AnchorLost
from tests.planted_defects.known import DEFECTS
from tests.planted_defects.planting import NotRun, run


def main() -> int:
    """Run the defects that were asked for; give the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.planted_defects", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="beginnings of names, as 01; all without any")
    names = parser.parse_args().names
    chosen = [defect for defect in DEFECTS if not names or defect.name.startswith(tuple(names))]
    try:
        missed = run(chosen)
    except (AnchorLost, NotRun) as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{len(chosen) - len(missed)} of {len(chosen)} planted defects are caught")
    return 1 if missed or not chosen else 0


if __name__ == "__main__":
    sys.exit(main())
