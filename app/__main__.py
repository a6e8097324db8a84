"""`python -m app`: the command line, where the `loramill` script is not at hand."""

from app.cli.main import cli

if __name__ == "__main__":
    cli()
