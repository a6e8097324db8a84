"""Tables of a run, for people."""

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from benchmarks.training.cases import OURS, RIVALS
from benchmarks.training.summary import Ablation, Summary, find_fastest

MIB = 2**20
_DESCRIPTIONS = {contestant.trainer: contestant.description for contestant in (OURS, *RIVALS)}


def print_case(console: Console, title: str, summaries: Mapping[str, Summary], untrained_loss: float) -> None:
    """Show every trainer of a case beside ours."""
    ours = find_fastest(summaries, "ours")
    assert ours is not None, "ours always takes part"
    table = Table(title=f"{title}; held-out loss before training {untrained_loss:.4f}", title_justify="left")
    table.add_column("trainer")
    table.add_column("computes in")
    for heading in ("useful tok/s", "trained tok/s", "ours is", "step s (min)", "rows", "start s", "peak MiB", "loss"):
        table.add_column(heading, justify="right")
    for one in sorted(summaries.values(), key=lambda one: -one.useful_tokens_per_s):
        table.add_row(
            _DESCRIPTIONS[one.trainer],
            one.dtype,
            f"{one.useful_tokens_per_s:,.0f}",
            f"{one.trained_tokens_per_s:,.0f}",
            f"{ours.useful_tokens_per_s / one.useful_tokens_per_s:.2f}×",
            f"{one.step_s:.2f} ({one.fastest_step_s:.2f})",
            f"{one.examples}",
            f"{one.startup_s:.1f}",
            f"{one.peak_memory_bytes / MIB:,.0f}",
            "" if one.held_out_loss is None else f"{one.held_out_loss:.4f}",
        )
    console.print(table)
    if ours.roofline_share is not None:
        console.print(
            f"ours: {ours.roofline_share:.1%} of the roofline (every block in full, at the rate of products of these "
            f"shapes); {ours.needed_share:.1%} with only the needed work counted; {ours.peak_share:.1%} if all were "
            "as fast as the fastest product\n"
        )


def print_ablations(console: Console, ablations: Sequence[Ablation]) -> None:
    """Show what each technique is worth."""
    table = Table(title="ours, each technique switched off alone", title_justify="left")
    table.add_column("without")
    for heading in ("useful tok/s", "slower by", "peak MiB more"):
        table.add_column(heading, justify="right")
    for one in ablations:
        also = f" (beside {', '.join(one.baseline)})" if one.baseline else ""
        table.add_row(
            one.technique + also,
            f"{one.useful_tokens_per_s:,.0f}",
            f"{one.slowdown:.2f}×",
            f"{one.memory_growth_bytes / MIB:+,.0f}",
        )
    console.print(table)


def print_products(console: Console, products: Mapping[str, float]) -> None:
    """Show how fast this machine multiplies matrices of the model's shapes."""
    table = Table(title="matrix products of one step, GFLOP/s", title_justify="left")
    table.add_column("shape")
    kinds = sorted({name.split()[0] for name in products})
    for kind in kinds:
        table.add_column(kind, justify="right")
    for shape in dict.fromkeys(name.split(maxsplit=1)[1] for name in products):
        table.add_row(shape, *(f"{products[f'{kind} {shape}']:,.0f}" for kind in kinds))
    console.print(table)
