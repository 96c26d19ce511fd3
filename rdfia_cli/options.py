"""The flags that several commands share: one spelling, one help, one completion."""

from __future__ import annotations

from typing import Annotated

import typer

SETTINGS = "Settings"
PLACE = "Where it goes"
SOURCES = "Settings from elsewhere"
SPACE = "What varies"
EXECUTION = "How it is executed"


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
Precision = Annotated[
    str | None,
    setting(
        "--precision",
        metavar="P",
        help="auto, fp32, bf16 or fp16. (default auto)",
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
