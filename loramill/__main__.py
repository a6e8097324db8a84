"""The `loramill` command, and `python -m loramill`. What the commands are is ``app.cli.main``'s."""

import os

from loramill._packages import environment_of_children, make_importable


def main() -> None:
    """Run the command line. Every process that it starts finds our packages by the environment."""
    make_importable("app", "migrations")
    os.environ.update(environment_of_children(os.environ))
    from app.cli.main import cli

    cli()


if __name__ == "__main__":
    main()
