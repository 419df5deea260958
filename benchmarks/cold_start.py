"""How long a user waits for one answer, beside the least that the three libraries it stands on take to import.

    python benchmarks/cold_start.py [rounds]

All are whole processes and take turns, so a busy machine slows them alike. The target is a ratio of at most 1.25, of
the least of all rounds (what the machine can do) and of the medians (what it did). Byte code is kept from the first run
on, as after every installation.
"""

import os
import statistics
import subprocess
import sys
import time

INFER = ["-m", "llm_analysis", "infer", "--model_name", "test-13b", "--gpu_name", "a100-sxm-40gb"]
LIBRARIES = "import fire, pydantic, tabulate"
PROCESSES = {
    LIBRARIES: ["-c", LIBRARIES],
    "infer (calibrated, the default)": INFER,
    "infer --method ideal": [*INFER, "--method", "ideal"],
}

ENVIRONMENT = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}


def wall_seconds(arguments: list[str]) -> float:
    """Seconds from start to exit of one process of this Python, its output thrown away."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, env=ENVIRONMENT)
    return time.perf_counter() - start


def main(rounds: int = 20) -> None:
    for arguments in PROCESSES.values():
        wall_seconds(arguments)  # warm-up: byte code and file cache
    seconds: dict[str, list[float]] = {name: [] for name in PROCESSES}
    for _ in range(rounds):
        for name, arguments in PROCESSES.items():
            seconds[name].append(wall_seconds(arguments))
    least = {name: min(found) for name, found in seconds.items()}
    median = {name: statistics.median(found) for name, found in seconds.items()}
    print(f"{'':33} {'least':>9} {'median':>10}  ratio of least, of medians (target: 1.25)")
    for name in PROCESSES:
        ratios = f"{least[name] / least[LIBRARIES]:14.3f} {median[name] / median[LIBRARIES]:11.3f}"
        print(f"{name:33} {least[name] * 1e3:6.1f} ms {median[name] * 1e3:7.1f} ms  {ratios}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
