"""The command line: names, options, help. Each body is one lazy import and one call."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from rdfia_cli import __version__, console
from rdfia_cli.app_plugins import plugins_app
from rdfia_cli.options import (
    EXECUTION,
    MOST_EXAMPLES,
    PLACE,
    SPACE,
    AnalysedModels,
    Assignments,
    Augmentations,
    Classes,
    Data,
    DeviceOfRun,
    Files,
    FolderOfRuns,
    IfExists,
    Input,
    Json,
    Model,
    Quiet,
    Recipe,
    Seed,
    Traceback,
    complete,
    setting,
    with_settings,
)

EPILOG = (
    "Exit codes: 0 done, 1 failed, 2 usage, 3 some runs failed, 4 component missing or broken, "
    "5 diverged or beyond a limit, 75 stopped after a checkpoint."
)

app = typer.Typer(
    name="rdfia",
    help="Controlled image-classification experiments in PyTorch.",
    epilog=EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(shown: bool) -> None:
    if shown:
        console.print_result(f"rdfia {__version__}")
        raise typer.Exit(0)


@app.callback()
def rdfia(
    ctx: typer.Context,
    no_plugins: Annotated[
        bool,
        typer.Option("--no-plugins", help="Leave out every plugin; RDFIA_PLUGINS=a,b chooses."),
    ] = False,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Controlled image-classification experiments in PyTorch."""
    from rdfia_cli import entry_points, registry

    entry_points.installed()
    if no_plugins:
        ctx.with_resource(registry.without_plugins())


@app.command()
@with_settings()
def train(
    ctx: typer.Context,
    model: Model = None,
    set: Assignments = None,
    config: Files = None,
    recipe: Recipe = None,
    out: Annotated[
        str | None,
        setting(
            "--out",
            metavar="DIR",
            help="The run folder itself. (default runs/MODEL-DATA-HASH)",
            panel=PLACE,
        ),
    ] = None,
    if_exists: IfExists = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Show every setting, its origin and the cost; write no run."
        ),
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
    traceback: Traceback = False,
    **settings: Any,
) -> None:
    """Train a model; finish an unfinished run; print a finished one."""
    from rdfia_cli.commands import train as command

    raise typer.Exit(console.call(command.run, ctx.params))


@app.command()
@with_settings()
def sweep(
    ctx: typer.Context,
    model: Model = None,
    over: Annotated[
        list[str] | None,
        setting(
            "--over",
            metavar="KEY=VALUES",
            help="A setting that varies: KEY=a,b,c, KEY=low..high, KEY=low..high:step or "
            "KEY=log:low..high; repeatable.",
            panel=SPACE,
        ),
    ] = None,
    trials: Annotated[
        int | None,
        typer.Option(
            "--trials",
            metavar="N",
            min=1,
            help="How many. (default all of a grid, else 20)",
            rich_help_panel=SPACE,
            show_default=False,
        ),
    ] = None,
    sampler: Annotated[
        str | None,
        setting(
            "--sampler",
            metavar="S",
            help="grid, random, tpe, gp, qmc or nsgaii. (default grid, random where it is endless)",
            panel=SPACE,
        ),
    ] = None,
    pruner: Annotated[
        str | None,
        setting(
            "--pruner",
            metavar="P",
            help="none, asha, hyperband, median, percentile or threshold. (default none)",
            panel=SPACE,
        ),
    ] = None,
    round: Annotated[
        int | None,
        typer.Option(
            "--round",
            metavar="N",
            min=1,
            help="Trials that an adaptive sampler proposes at once. (default 8)",
            rich_help_panel=SPACE,
            show_default=False,
        ),
    ] = None,
    backend: Annotated[
        str,
        typer.Option(
            "--backend",
            metavar="B",
            help="auto, stacked, process or ray.",
            rich_help_panel=EXECUTION,
        ),
    ] = "auto",
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            metavar="N",
            min=1,
            help="Processes side by side. (default 1)",
            rich_help_panel=EXECUTION,
            show_default=False,
        ),
    ] = None,
    retries: Annotated[
        int,
        typer.Option(
            "--retries",
            metavar="N",
            min=0,
            help="How often a trial is tried again whose process crashed or hung.",
            rich_help_panel=EXECUTION,
        ),
    ] = 2,
    timeout: Annotated[
        float,
        typer.Option(
            "--timeout",
            metavar="SECONDS",
            min=0,
            help="How long a worker may train without the end of an epoch, of a trial or of a "
            "stack of trials, before it counts as hanging and is replaced; 0: any time.",
            rich_help_panel=EXECUTION,
        ),
    ] = 0,
    memory: Annotated[
        str | None,
        setting(
            "--memory",
            metavar="SIZE",
            help="What a process may allocate, such as 4G. (default any)",
            panel=EXECUTION,
        ),
    ] = None,
    shard: Annotated[
        str | None,
        setting(
            "--shard",
            metavar="I/N",
            help="Only the Ith of N shares of the trials.",
            panel=EXECUTION,
        ),
    ] = None,
    address: Annotated[
        str | None,
        setting(
            "--address",
            metavar="A",
            help="The Ray cluster. (default that of RAY_ADDRESS, else a local one)",
            panel=EXECUTION,
        ),
    ] = None,
    retry_failed: Annotated[
        bool,
        typer.Option("--retry-failed", help="Try failed trials again.", rich_help_panel=EXECUTION),
    ] = False,
    set: Assignments = None,
    config: Files = None,
    recipe: Recipe = None,
    out: Annotated[
        str | None,
        setting(
            "--out",
            metavar="DIR",
            help="The sweep's folder. (default sweeps/MODEL-DATA-HASH)",
            panel=PLACE,
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print a rdfia train line for each trial.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
    traceback: Traceback = False,
    **settings: Any,
) -> None:
    """Train many trials of a space and rank them; go on where it stopped."""
    from rdfia_cli.commands import sweep as command

    raise typer.Exit(console.call(command.run, ctx.params))


@app.command()
@with_settings(without={"seed"})
def compare(
    ctx: typer.Context,
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL...",
            help="The models. (default vit, timm/vit_tiny_patch16_224, timm/resnet18, cnn, lenet)",
            autocompletion=complete("models"),  # pyright: ignore
            show_default=False,
        ),
    ] = None,
    data: Annotated[
        str | None,
        setting("--data", metavar="D", help="The dataset. (default mnist)", group="datasets"),
    ] = None,
    seeds: Annotated[
        str,
        setting("--seeds", metavar="LIST", help="A run each: 0,1,2 or 0..4. (default 0,1,2)"),
    ] = "0,1,2",
    set: Assignments = None,
    config: Files = None,
    recipe: Recipe = None,
    out: FolderOfRuns = "comparison",
    if_exists: IfExists = None,
    json: Json = False,
    quiet: Quiet = False,
    traceback: Traceback = False,
    **settings: Any,
) -> None:
    """Train several models over several seeds: one table, one picture."""
    from rdfia_cli.commands import compare as command

    raise typer.Exit(console.call(command.run, ctx.params))


@app.command()
@with_settings(of_recipes=True)
def reproduce(
    ctx: typer.Context,
    figures: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FIGURE...",
            help="1 to 17, the name of a recipe, or all. (default all)",
            show_default=False,
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A few epochs on the embedded data: two minutes.")
    ] = False,
    data: Annotated[
        list[str] | None,
        setting(
            "--data",
            metavar="NAME=SPEC",
            help="What takes a dataset's place: cifar10=folder:path=DIR; repeatable.",
        ),
    ] = None,
    epochs: Annotated[
        str | None, setting("--epochs", metavar="N", help="For all. (default each recipe's own)")
    ] = None,
    set: Assignments = None,
    out: FolderOfRuns = "reproduction",
    json: Json = False,
    quiet: Quiet = False,
    traceback: Traceback = False,
    **settings: Any,
) -> None:
    """Make the figures of the course report again, and a page of them.

    What each recipe sets is the default of every setting; one that is given here is for all.
    """
    from rdfia_cli.commands import reproduce as command

    raise typer.Exit(console.call(command.run, ctx.params))


@app.command("eval")
def evaluate(
    ctx: typer.Context,
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run folder.", show_default=False)],
    data: Annotated[
        str | None,
        setting(
            "--data",
            metavar="D",
            help="Another dataset of the same shape and classes.",
            group="datasets",
        ),
    ] = None,
    split: Annotated[
        str, typer.Option("--split", metavar="S", help="test, validation or train.")
    ] = "test",
    device: DeviceOfRun = None,
    plot: Annotated[
        str | None,
        typer.Option(
            "--plot", metavar="FILE", help="Draw confusion and per-class accuracy: .png or .svg."
        ),
    ] = None,
    attention: Annotated[
        str | None,
        typer.Option(
            "--attention",
            metavar="FILE",
            help="Draw where a vit looks, and how alike its positions are: .png or .svg.",
        ),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
    traceback: Traceback = False,
) -> None:
    """Score a run's weights: loss, accuracy, calibration, confusion."""
    from rdfia_cli.commands import eval as command

    raise typer.Exit(console.call(command.run, ctx.params))


@app.command()
def report(
    ctx: typer.Context,
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...",
            help="A run folder, several to compare, or the folder of a sweep.",
            show_default=False,
        ),
    ],
    out: Annotated[
        str | None,
        setting(
            "--out",
            metavar="FILE",
            help="The page. (default report.html in the one folder, or here)",
            panel=PLACE,
        ),
    ] = None,
    title: Annotated[
        str | None,
        setting("--title", metavar="T", help="Its heading. (default the folder's name)"),
    ] = None,
    device: DeviceOfRun = None,
    json: Json = False,
    quiet: Quiet = False,
    traceback: Traceback = False,
) -> None:
    """Write one page of HTML about a run, several runs, or a sweep."""
    from rdfia_cli.commands import report as command

    raise typer.Exit(console.call(command.run, ctx.params))


@app.command()
def augment(
    ctx: typer.Context,
    data: Data = None,
    augment: Augmentations = None,
    seed: Seed = None,
    out: Annotated[
        str, typer.Option("--out", metavar="FILE", help="The picture: .png or .svg.")
    ] = "augmented.png",
    samples: Annotated[
        int, typer.Option("--samples", metavar="N", min=1, max=64, help="Examples, a row each.")
    ] = 8,
    draws: Annotated[
        int, typer.Option("--draws", metavar="N", min=1, max=32, help="Draws of each example.")
    ] = 8,
    json: Json = False,
    quiet: Quiet = False,
    traceback: Traceback = False,
) -> None:
    """Draw a grid of augmented samples."""
    from rdfia_cli.commands import augment as command

    raise typer.Exit(console.call(command.run, ctx.params))


@app.command("param-count")
def param_count(
    ctx: typer.Context,
    models: AnalysedModels,
    input: Input = None,
    classes: Classes = None,
    batch: Annotated[
        int,
        typer.Option(
            "--batch",
            metavar="N",
            min=1,
            max=MOST_EXAMPLES,
            help="Activations and memory of so many examples.",
        ),
    ] = 1,
    depth: Annotated[
        int | None,
        typer.Option(
            "--depth",
            metavar="N",
            min=0,
            help="Fold what lies deeper. (default 2 for the tree, all for --json)",
        ),
    ] = None,
    convention: Annotated[
        str,
        typer.Option(
            "--convention", metavar="C", help="macs, or fvcore, which adds norms and resampling."
        ),
    ] = "macs",
    explain: Annotated[
        bool, typer.Option("--explain", help="Each layer's formula, with the numbers filled in.")
    ] = False,
    data: Annotated[
        str | None,
        setting(
            "--data",
            metavar="D",
            help="Feed what the dataset has, count its images.",
            group="datasets",
        ),
    ] = None,
    max_parameters: Annotated[
        str | None,
        setting("--max-parameters", metavar="N", help="Exit with 5 above it; such as 5M."),
    ] = None,
    max_macs: Annotated[
        str | None, setting("--max-macs", metavar="N", help="Exit with 5 above it; such as 1G.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object a model.")] = False,
    quiet: Quiet = False,
    traceback: Traceback = False,
) -> None:
    """Count parameters, multiply-accumulates and memory, layer by layer."""
    from rdfia_cli.commands import param_count as command

    raise typer.Exit(console.call(command.run, ctx.params))


@app.command("receptive-field")
def receptive_field(
    ctx: typer.Context,
    models: AnalysedModels,
    input: Input = None,
    classes: Classes = None,
    layer: Annotated[
        list[str] | None,
        setting("--layer", metavar="PATTERN", help="Only these, such as 'layer4.*'; repeatable."),
    ] = None,
    position: Annotated[
        str | None,
        setting("--position", metavar="Y,X", help="What this output position sees."),
    ] = None,
    clip: Annotated[
        bool, typer.Option("--clip", help="Sizes as far as the image itself goes.")
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Compare with NaN in the real model; takes long.")
    ] = False,
    effective: Annotated[
        bool, typer.Option("--effective", help="Measure gradients: where the weight really lies.")
    ] = False,
    data: Annotated[
        str | None,
        setting(
            "--data",
            metavar="D",
            help="Images for --effective and --plot. (default the run's, else digits)",
            group="datasets",
        ),
    ] = None,
    images: Annotated[
        int, typer.Option("--images", metavar="N", min=2, help="Images for --effective.")
    ] = 32,
    plot: Annotated[
        str | None,
        typer.Option("--plot", metavar="FILE", help="Draw the fields: .png or .svg."),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
    traceback: Traceback = False,
) -> None:
    """Print what every module sees of the input: size, stride, padding; exactly."""
    from rdfia_cli.commands import receptive_field as command

    raise typer.Exit(console.call(command.run, ctx.params))


app.add_typer(plugins_app, name="plugins")

data_app = typer.Typer(
    help="Manage the cache of decoded datasets.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(data_app, name="data")


@data_app.command("prepare")
def prepare_data(
    ctx: typer.Context,
    datasets: Annotated[
        list[str],
        typer.Argument(
            metavar="D...",
            help="Datasets, such as mnist or folder:path=photos.",
            autocompletion=complete("datasets"),  # pyright: ignore
            show_default=False,
        ),
    ],
    json: Json = False,
    quiet: Quiet = False,
    traceback: Traceback = False,
) -> None:
    """Download and decode datasets now, so that a run starts at once."""
    from rdfia_cli.commands import data as command

    raise typer.Exit(console.call(command.prepare, ctx.params))


@data_app.command("list")
def list_data(
    ctx: typer.Context, json: Json = False, quiet: Quiet = False, traceback: Traceback = False
) -> None:
    """List what is in the cache."""
    from rdfia_cli.commands import data as command

    raise typer.Exit(console.call(command.list_stores, ctx.params))


@data_app.command("remove")
def remove_data(
    ctx: typer.Context,
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME...",
            help="Stores, by the beginning of their names or by their datasets' specs; or datasets "
            "with all their stores.",
            show_default=False,
        ),
    ] = None,
    all: Annotated[bool, typer.Option("--all", help="Every store.")] = False,
    downloads: Annotated[
        bool, typer.Option("--downloads", help="The downloaded files too.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
    traceback: Traceback = False,
) -> None:
    """Remove datasets from the cache."""
    from rdfia_cli.commands import data as command

    raise typer.Exit(console.call(command.remove, ctx.params))


@app.command("list")
def list_components(
    ctx: typer.Context,
    group: Annotated[
        str | None,
        typer.Argument(
            metavar="GROUP",
            help="models, augmentations, optimizers, schedules, datasets, loggers or recipes.",
            show_default=False,
        ),
    ] = None,
    pattern: Annotated[
        str | None,
        typer.Argument(
            metavar="PATTERN",
            help="Names that fit, such as 'cosine*'; 'timm/resnet*' lists members of a family.",
            show_default=False,
        ),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Import each one, to find those that are broken.")
    ] = False,
    json: Json = False,
    traceback: Traceback = False,
) -> None:
    """List components and recipes."""
    from rdfia_cli.commands import list as command

    raise typer.Exit(console.call(command.run, ctx.params))


def main() -> None:
    """Run the command line and leave with its exit code."""
    arguments = sys.argv[1:]
    sys.exit(console.run(lambda: app(arguments, standalone_mode=False), arguments))
