"""Training images a second in fp32 and bf16, by the work of a step, interleaved in one run.

It justifies LEAST_WORK_FOR_BF16 in `rdfia_cli/training/precision.py`.
Run: uv run python benchmarks/precision.py
"""

import json
import statistics
import time

import torch

from rdfia_cli.analysis.parameters import count
from rdfia_cli.config import ComponentConfig, resolve
from rdfia_cli.sources import Sources
from rdfia_cli.spec import Batch, InputSpec
from rdfia_cli.training import assembly
from rdfia_cli.training.precision import Arithmetic
from rdfia_cli.training.step import training_step

CASES = [
    ("mlp", (1, 28, 28), 128),
    ("mlp", (1, 28, 28), 1024),
    ("lenet", (1, 28, 28), 16),
    ("lenet", (1, 28, 28), 32),
    ("lenet", (1, 28, 28), 64),
    ("lenet", (1, 28, 28), 128),
    ("cnn", (1, 8, 8), 32),
    ("cnn", (1, 8, 8), 128),
    ("cnn", (3, 28, 28), 8),
    ("cnn", (3, 28, 28), 128),
]
ROUNDS = 15
STEPS_A_ROUND = 10


def main() -> None:
    results = sorted((measure(*case) for case in CASES), key=lambda row: row["macs_a_step"])
    print(f"{'case':20} {'MACs a step':>14} {'fp32 img/s':>11} {'bf16 img/s':>11} {'ratio':>6}")
    for row in results:
        print(
            f"{row['case']:20} {row['macs_a_step']:14,} {row['fp32']:11,.0f} {row['bf16']:11,.0f} "
            f"{row['bf16'] / row['fp32']:6.2f}"
        )
    threads = torch.get_num_threads()
    print(json.dumps({"schema": "rdfia.benchmark/1", "threads": threads, "results": results}))


def measure(model: str, shape: tuple[int, ...], batch_size: int) -> dict:
    subjects = {kind: prepare(kind, model, shape, batch_size) for kind in ("fp32", "bf16")}
    rates: dict[str, list[float]] = {kind: [] for kind in subjects}
    for round_number in range(ROUNDS + 1):
        for kind, (network, batch, optimizer, arithmetic, scaler) in subjects.items():
            began = time.perf_counter()
            for _ in range(STEPS_A_ROUND):
                training_step(network, batch, optimizer, arithmetic, scaler)
            if round_number:
                seconds = time.perf_counter() - began
                rates[kind].append(STEPS_A_ROUND * batch_size / seconds)
    macs = count(subjects["fp32"][0], InputSpec(shape, 10)).macs * batch_size
    name = f"{model} {'x'.join(map(str, shape))} @{batch_size}"
    medians = {kind: statistics.median(values) for kind, values in rates.items()}
    return {"case": name, "macs_a_step": macs, **medians}


def prepare(kind: str, model: str, shape: tuple[int, ...], batch_size: int) -> tuple:
    base = resolve(Sources(flags={})).config
    config = base.model_copy(update={"model": ComponentConfig(name=model)})
    network = assembly.build_model(config, InputSpec(shape, 10))
    network = network.to(memory_format=torch.channels_last).train()
    inputs = torch.rand(batch_size, *shape).contiguous(memory_format=torch.channels_last)
    batch = Batch(inputs, torch.randint(10, (batch_size,)))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    return network, batch, optimizer, Arithmetic(kind, True), torch.amp.GradScaler(enabled=False)


if __name__ == "__main__":
    main()
