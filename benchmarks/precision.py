"""Training steps a second in fp32 and bf16, for models of growing size, interleaved in one run.

It justifies SMALLEST_MODEL_FOR_BF16 in `rdfia_cli/training/precision.py`.
Run: uv run python benchmarks/precision.py
"""

import json
import statistics
import time

import torch

from rdfia_cli.config import ComponentConfig, resolve
from rdfia_cli.sources import Sources
from rdfia_cli.spec import Batch, InputSpec
from rdfia_cli.training import assembly
from rdfia_cli.training.precision import Arithmetic
from rdfia_cli.training.step import training_step

CASES = {
    "mlp 1x28x28": ("mlp", (1, 28, 28), 128),
    "lenet 1x28x28": ("lenet", (1, 28, 28), 128),
    "cnn 1x8x8": ("cnn", (1, 8, 8), 32),
    "cnn 3x28x28": ("cnn", (3, 28, 28), 128),
}
ROUNDS = 15
STEPS_A_ROUND = 10


def main() -> None:
    results = [measure(name, *case) for name, case in CASES.items()]
    print(f"{'model':14} {'parameters':>10} {'fp32 img/s':>11} {'bf16 img/s':>11} {'ratio':>6}")
    for row in results:
        print(
            f"{row['case']:14} {row['parameters']:10,} {row['fp32']:11,.0f} {row['bf16']:11,.0f} "
            f"{row['bf16'] / row['fp32']:6.2f}"
        )
    threads = torch.get_num_threads()
    print(json.dumps({"schema": "rdfia.benchmark/1", "threads": threads, "results": results}))


def measure(name: str, model: str, shape: tuple[int, ...], batch_size: int) -> dict:
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
    parameters = sum(p.numel() for p in subjects["fp32"][0].parameters())
    medians = {kind: statistics.median(values) for kind, values in rates.items()}
    return {"case": name, "parameters": parameters, **medians}


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
