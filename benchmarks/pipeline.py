"""Training images a second on CIFAR-10: the bare step, rdfia, hand-made loops and Lightning.

Each subject is a process of its own, and they take turns: every round runs each of them for as many
steps, alone on the machine. The CNN of the course, batch 128, crop to 28 and flip; plain SGD.

- bare: forward, loss, backward and update of the course's network on one random batch, in bf16 and
  channels_last. What rdfia is held against.
- bare-ours: the same with rdfia's network (ReLU after pooling, the same bits) and its allocator.
- rdfia, rdfia-affine: `training.loop.fit`, with crop and flip, and with an affine map before.
- loop-fp32, loop-bf16: torchvision's transforms on a DataLoader with two workers.
- lightning-fp32, lightning-bf16: the same DataLoader in Lightning's Trainer, where it is installed.

Run: uv run --with lightning python benchmarks/pipeline.py FOLDER [--rounds N] [--steps N]
FOLDER holds train/<class>/*.jpg and test/<class>/*.jpg of 32x32 pixels.
"""

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import time
import warnings

import torch
import torch.nn.functional as F
from torch import nn

BATCH = 128
REFERENCE = "bare"
SUBJECTS = (
    *("bare", "bare-ours", "rdfia", "rdfia-affine", "loop-fp32", "loop-bf16"),
    *("lightning-fp32", "lightning-bf16"),
)


def main() -> None:
    arguments = parse()
    if arguments.subject:
        serve(arguments)
        return
    lightning = importlib.util.find_spec("lightning") is not None
    names = [name for name in SUBJECTS if lightning or not name.startswith("lightning")]
    rates = measure(names, arguments)
    medians = {name: statistics.median(values) for name, values in rates.items()}
    print(f"{'subject':16} {'images/s':>9} {'of bare':>8} {'lowest':>7} {'highest':>8}")
    for name, values in rates.items():
        ratios = [a / b for a, b in zip(values, rates[REFERENCE], strict=True)]
        print(
            f"{name:16} {medians[name]:9,.0f} {statistics.median(ratios):8.2f} "
            f"{min(values):7,.0f} {max(values):8,.0f}"
        )
    result = {"threads": torch.get_num_threads(), "rates": rates, "medians": medians}
    print(json.dumps({"schema": "rdfia.benchmark/1", **result}))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--subject", choices=SUBJECTS, help=argparse.SUPPRESS)
    return parser.parse_args()


def measure(names: list[str], arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Images a second of each subject in each round; the first round only warms up."""
    command = [sys.executable, __file__, arguments.folder, "--steps", str(arguments.steps)]
    processes = {
        name: subprocess.Popen(
            [*command, "--subject", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for name in names
    }
    rates: dict[str, list[float]] = {name: [] for name in names}
    for process in processes.values():
        process.stdout.readline()
    for round_number in range(arguments.rounds + 1):
        for name, process in processes.items():
            process.stdin.write("go\n")
            process.stdin.flush()
            seconds = float(process.stdout.readline())
            if round_number:
                rates[name].append(arguments.steps * BATCH / seconds)
    for process in processes.values():
        process.kill()
    return rates


def serve(arguments: argparse.Namespace) -> None:
    """Be one subject: run some steps whenever a line comes in, and say how long they took."""
    warnings.simplefilter("ignore")
    out, sys.stdout = sys.stdout, sys.stderr
    name = arguments.subject
    turns = Turns(arguments.steps, out)
    if name.startswith("bare"):
        serve_bare(turns, ours=name.endswith("ours"))
    elif name.startswith("rdfia"):
        serve_rdfia(turns, arguments.folder, affine=name.endswith("affine"))
    elif name.startswith("loop"):
        serve_loop(turns, arguments.folder, bf16=name.endswith("bf16"))
    else:
        serve_lightning(turns, arguments.folder, bf16=name.endswith("bf16"))


class Turns:
    """Waits for its turn before every so many steps; call it after each step."""

    def __init__(self, steps: int, out) -> None:
        self.steps, self.out, self.done, self.began = steps, out, 0, None

    def __call__(self) -> None:
        if self.began is not None:
            self.done += 1
            if self.done % self.steps:
                return
        print("ready" if self.began is None else time.perf_counter() - self.began, file=self.out)
        self.out.flush()
        if not sys.stdin.readline():
            raise SystemExit
        self.began = time.perf_counter()


def course_network() -> nn.Module:
    """The network of the course in its own order, ReLU before pooling."""
    layers: list[nn.Module] = []
    for inputs, outputs, ceil in ((3, 32, False), (32, 64, False), (64, 64, True)):
        layers += [nn.Conv2d(inputs, outputs, 5, padding=2), nn.ReLU()]
        layers += [nn.MaxPool2d(2, ceil_mode=ceil)]
    return nn.Sequential(
        *layers, nn.Flatten(), nn.Linear(1024, 1000), nn.ReLU(), nn.Linear(1000, 10)
    )


def serve_bare(turns: Turns, *, ours: bool) -> None:
    network = course_network()
    if ours:
        from rdfia_cli.models.cnn import cnn
        from rdfia_cli.spec import InputSpec
        from rdfia_cli.training.memory import keep_freed_memory

        keep_freed_memory()
        network = cnn(InputSpec((3, 28, 28), 10))
    network = network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    images = torch.rand(BATCH, 3, 28, 28).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(10, (BATCH,))
    while True:
        take_step(network, optimizer, images, labels, bf16=True)
        turns()


def take_step(network, optimizer, images, labels, *, bf16: bool) -> None:
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        logits = network(images)
    F.cross_entropy(logits.float(), labels).backward()
    optimizer.step()


def serve_rdfia(turns: Turns, folder: str, *, affine: bool) -> None:
    from rdfia_cli.commands.progress import watch
    from rdfia_cli.config import resolve
    from rdfia_cli.sources import Sources
    from rdfia_cli.training import assembly
    from rdfia_cli.training.loop import StepEnd, fit

    augment = ["random_affine"] * affine + ["random_crop:size=28", "horizontal_flip"]
    flags = {"model": "cnn", "data": f"folder:path={folder}", "augment": augment}
    flags |= {"optimizer": "sgd:lr=0.01", "schedule": "constant", "batch_size": str(BATCH)}
    config = resolve(Sources({**flags, "epochs": "1000", "device": "cpu"})).config
    parts = watch(assembly.load_and_assemble(config), lambda event: None)
    parts.verification.wait()
    for event in fit(*assembly.prepare(parts)):
        if isinstance(event, StepEnd):
            turns()


def batches(folder: str):
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    steps = [v2.RandomCrop(28), v2.RandomHorizontalFlip(), v2.ToImage()]
    scale = [v2.ToDtype(torch.float32, scale=True)]
    normalize = [v2.Normalize((0.491, 0.482, 0.447), (0.247, 0.243, 0.262))]
    images = ImageFolder(f"{folder}/train", v2.Compose(steps + scale + normalize))
    # Decoded before, as the sets of torchvision are: the loop is not charged for JPEG.
    decoded = [(image.copy(), label) for image, label in map(images_of(images), range(len(images)))]
    transform = images.transform
    return torch.utils.data.DataLoader(
        Decoded(decoded, transform),
        batch_size=BATCH,
        shuffle=True,
        drop_last=True,
        num_workers=2,
        persistent_workers=True,
    )


def images_of(images):
    """Indexing without the transform."""
    return lambda index: (images.loader(images.samples[index][0]), images.samples[index][1])


class Decoded(torch.utils.data.Dataset):
    """Images in memory, and a transform."""

    def __init__(self, images: list, transform) -> None:
        self.images, self.transform = images, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple:
        image, label = self.images[index]
        return self.transform(image), label


def serve_loop(turns: Turns, folder: str, *, bf16: bool) -> None:
    network = course_network()
    if bf16:
        network = network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    loader = batches(folder)
    while True:
        for images, labels in loader:
            if bf16:
                images = images.contiguous(memory_format=torch.channels_last)
            take_step(network, optimizer, images, labels, bf16=bf16)
            turns()


def serve_lightning(turns: Turns, folder: str, *, bf16: bool) -> None:
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = course_network()

        def training_step(self, batch, index):
            images, labels = batch
            return F.cross_entropy(self.network(images).float(), labels)

        def on_train_batch_end(self, *_) -> None:
            turns()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.01)

    trainer = lightning.Trainer(
        max_epochs=1000,
        accelerator="cpu",
        precision="bf16-mixed" if bf16 else "32-true",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Module(), batches(folder))


if __name__ == "__main__":
    main()
