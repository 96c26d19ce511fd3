"""The flags that several commands share: one spelling, one help, one completion."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Annotated, Any, TypeVar, get_args

import typer

Command = TypeVar("Command", bound=Callable[..., None])

SETTINGS = "Settings"
PLACE = "Where it goes"
SOURCES = "Settings from elsewhere"
SPACE = "What varies"
EXECUTION = "How it is executed"

MOST_CLASSES = 10**9
MOST_EXAMPLES = 10**6
"""Beyond these a product of sizes leaves the 64 bits in which torch counts elements."""


def complete(group: str) -> object:
    """A completion of component names, read from entry points alone."""

    def complete_name(incomplete: str) -> list[str]:
        from rdfia_cli import recipe, registry

        known = recipe.names() if group == "recipes" else registry.names(group)
        return [name for name in known if name.startswith(incomplete)]

    return complete_name


def setting(
    *names: str, metavar: str, help: str, group: str | None = None, panel: str = SETTINGS
) -> object:
    """An option that a configuration may also set: its default is told in its help."""
    return typer.Option(
        *names,
        metavar=metavar,
        help=help,
        rich_help_panel=panel,
        autocompletion=complete(group) if group else None,  # pyright: ignore
        show_default=False,
    )


Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")]
Traceback = Annotated[bool, typer.Option("--traceback", help="Show where an error comes from.")]
Model = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL",
        help="The model, such as mlp or cnn:dropout=0.5. (default cnn)",
        autocompletion=complete("models"),  # pyright: ignore
        show_default=False,
    ),
]
Data = Annotated[
    str | None,
    setting("--data", metavar="D", help="The dataset. (default digits)", group="datasets"),
]
Augmentations = Annotated[
    list[str] | None,
    setting(
        "--augment",
        metavar="A",
        help="An augmentation; repeat it for more, in order.",
        group="augmentations",
    ),
]
Seed = Annotated[
    str | None,
    setting("--seed", metavar="N", help="The seed of all randomness. (default 0)"),
]
Optimizer = Annotated[
    str | None,
    setting(
        "--optimizer",
        metavar="O",
        help="The optimizer. (default sgd:momentum=0.9,weight_decay=0.003)",
        group="optimizers",
    ),
]
Schedule = Annotated[
    str | None,
    setting(
        "--schedule",
        metavar="S",
        help="The schedule of the learning rate. (default cosine:warmup=2)",
        group="schedules",
    ),
]
LearningRate = Annotated[
    str | None,
    setting("--lr", metavar="X", help="The learning rate; the same as --set optimizer.lr=X."),
]
Epochs = Annotated[
    str | None,
    setting("--epochs", metavar="N", help="Passes over the train split. (default 30)"),
]
BatchSize = Annotated[
    str | None, setting("--batch-size", metavar="N", help="Examples a step. (default 32)")
]
Normalize = Annotated[
    str | None,
    setting(
        "--normalize",
        metavar="KIND",
        help="auto, train, none, zca, zca:eps=X, cifar10, imagenet, mnist or half. (default auto)",
    ),
]
Validation = Annotated[
    str | None,
    setting(
        "--validation",
        metavar="SHARE",
        help="The share of train kept for validation. (default 0.1)",
    ),
]
LabelSmoothing = Annotated[
    str | None,
    setting(
        "--label-smoothing",
        metavar="SHARE",
        help="The share of each label that all classes get alike. (default 0)",
    ),
]
ClassWeights = Annotated[
    str | None,
    setting(
        "--class-weights",
        metavar="W",
        help="none, balanced, or a list such as [1, 2.5]. (default none)",
    ),
]
ClipNorm = Annotated[
    str | None,
    setting("--clip-norm", metavar="X", help="The gradient's largest norm; 0: any. (default 0)"),
]
EmaDecay = Annotated[
    str | None,
    setting(
        "--ema-decay",
        metavar="X",
        help="Score and keep a moving average of the weights; 0: none. (default 0)",
    ),
]
Freeze = Annotated[
    str | None,
    setting(
        "--freeze",
        metavar="WHAT",
        help="none, or backbone: only the head learns. (default none)",
    ),
]
LayerDecay = Annotated[
    str | None,
    setting(
        "--layer-decay",
        metavar="X",
        help="The learning rate of a layer over that of the next one. (default 1)",
    ),
]
HeadLearningRateFactor = Annotated[
    str | None,
    setting(
        "--head-lr-factor",
        metavar="X",
        help="The learning rate of the head over the optimizer's. (default 1)",
    ),
]
EarlyStopping = Annotated[
    str | None,
    setting(
        "--early-stopping",
        metavar="N",
        help="Stop after N epochs without a better validation accuracy (at an equal one, "
        "loss), and keep the best epoch's weights; 0: never. (default 0)",
    ),
]
Precision = Annotated[
    str | None,
    setting(
        "--precision",
        metavar="P",
        help="auto, fp32, bf16 or fp16. (default auto)",
    ),
]
Device = Annotated[
    str | None,
    setting("--device", metavar="D", help="auto, cpu, cuda, cuda:N or mps. (default auto)"),
]
LogEvery = Annotated[
    str | None,
    setting(
        "--log-every",
        metavar="N",
        help="Steps between lines of metrics.jsonl; 0: epochs only. (default 0)",
    ),
]
Loggers = Annotated[
    list[str] | None,
    setting(
        "--log",
        metavar="L",
        help="Tell another program what is measured: tensorboard, mlflow; repeatable.",
        group="loggers",
    ),
]
Assignments = Annotated[
    list[str] | None,
    setting(
        "--set",
        metavar="KEY=VALUE",
        help="Any setting, such as model.dropout=0.5; repeatable; wins over its flag.",
        panel=SOURCES,
    ),
]
Files = Annotated[
    list[str] | None,
    setting(
        "--config",
        metavar="FILE",
        help="Settings from a TOML file; repeatable, the last wins.",
        panel=SOURCES,
    ),
]
Recipe = Annotated[
    str | None,
    setting(
        "--recipe",
        metavar="NAME",
        help="Settings of a known experiment: rdfia list recipes.",
        group="recipes",
        panel=SOURCES,
    ),
]
IfExists = Annotated[
    str | None,
    setting(
        "--if-exists",
        metavar="WHAT",
        help="skip, resume, new (into DIR-2, DIR-3, ...) or error. (default resume)",
        panel=PLACE,
    ),
]
FolderOfRuns = Annotated[
    str,
    typer.Option("--out", metavar="DIR", help="The folder of all runs.", rich_help_panel=PLACE),
]
DeviceOfRun = Annotated[
    str | None,
    setting("--device", metavar="D", help="Where to compute. (default as the run)"),
]
AnalysedModels = Annotated[
    list[str],
    typer.Argument(
        metavar="MODEL...",
        help="Models, patterns such as 'timm/*', run folders, or ./file.py:function.",
        autocompletion=complete("models"),  # pyright: ignore
        show_default=False,
    ),
]
Input = Annotated[
    str | None,
    setting("--input", metavar="CxHxW", help="What is fed. (default the model's own)"),
]
Classes = Annotated[
    int | None,
    typer.Option(
        "--classes",
        metavar="N",
        min=1,
        max=MOST_CLASSES,
        help="The classes. (default the model's own)",
    ),
]

SHARED: Mapping[str, object] = {
    "data": Data,
    "augment": Augmentations,
    "optimizer": Optimizer,
    "schedule": Schedule,
    "lr": LearningRate,
    "epochs": Epochs,
    "batch_size": BatchSize,
    "seed": Seed,
    "normalize": Normalize,
    "validation": Validation,
    "label_smoothing": LabelSmoothing,
    "class_weights": ClassWeights,
    "clip_norm": ClipNorm,
    "ema_decay": EmaDecay,
    "freeze": Freeze,
    "layer_decay": LayerDecay,
    "head_lr_factor": HeadLearningRateFactor,
    "early_stopping": EarlyStopping,
    "precision": Precision,
    "device": Device,
    "log_every": LogEvery,
    "log": Loggers,
}
"""The flags of the settings that every command takes which trains, in the order of its help."""


def with_settings(
    *, without: Collection[str] = (), of_recipes: bool = False
) -> Callable[[Command], Command]:
    """Give a command the shared flags, before its `--set`; they reach it through its context.

    Args:
        without: those that it does not take; one of which it has its own is not given either.
        of_recipes: whether recipes give the defaults, so that the usual ones are not told.
    """

    def give(command: Command) -> Command:
        signature = inspect.signature(command, eval_str=True)
        *own, _ = signature.parameters.values()  # the last takes what is given here
        names = [parameter.name for parameter in own]
        given = [
            inspect.Parameter(
                name,
                own[0].kind,
                default=None,
                annotation=_without_default(option) if of_recipes else option,
            )
            for name, option in SHARED.items()
            if name not in {*names, *without}
        ]
        place = names.index("set")
        parameters = [*own[:place], *given, *own[place:]]
        command.__dict__["__signature__"] = signature.replace(parameters=parameters)
        return command

    return give


def _without_default(option: Any) -> Any:
    """The annotation of an option whose help does not tell a default."""
    kind, info = get_args(option)
    told = copy.copy(info)
    told.help = info.help.partition(" (default ")[0]
    return Annotated[kind, told]
