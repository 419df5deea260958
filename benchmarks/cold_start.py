"""Measure the CPU time of one answer, relative to the import of the three libraries that it needs.

    python benchmarks/cold_start.py [rounds]

CPU time is user plus system time of a whole process, from start to exit. The processes alternate, because a busy
machine then slows all of them alike. Byte code is cached in the first, unmeasured round, as it is after an
installation. The ratio should be at most 1.35; the goal is 1.25.
"""

import os
import resource
import statistics
import subprocess
import sys

INFER = ["-m", "llm_analysis", "infer", "--model_name", "test-13b", "--gpu_name", "a100-sxm-40gb"]
LIBRARIES = "import fire, pydantic, tabulate"
PROCESSES = {
    LIBRARIES: ["-c", LIBRARIES],
    "infer (calibrated, the default)": INFER,
    "infer --method ideal": [*INFER, "--method", "ideal"],
    "infer --help": ["-m", "llm_analysis", "infer", "--help"],
}
ENVIRONMENT = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}


def cpu_seconds(arguments: list[str]) -> float:
    """Return user plus system seconds of one process of this Python; its output is discarded."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, env=ENVIRONMENT)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main(rounds: int = 20) -> None:
    """Print the least and the median CPU time of each process, and their ratios to the three imports."""
    for arguments in PROCESSES.values():
        cpu_seconds(arguments)
    seconds: dict[str, list[float]] = {name: [] for name in PROCESSES}
    for _ in range(rounds):
        for name, arguments in PROCESSES.items():
            seconds[name].append(cpu_seconds(arguments))
    least = {name: min(found) for name, found in seconds.items()}
    median = {name: statistics.median(found) for name, found in seconds.items()}
    print(f"{'':33} {'least':>9} {'median':>10}  ratio of least, of medians (at most 1.35)")
    for name in PROCESSES:
        ratios = f"{least[name] / least[LIBRARIES]:14.3f} {median[name] / median[LIBRARIES]:11.3f}"
        print(f"{name:33} {least[name] * 1e3:6.1f} ms {median[name] * 1e3:7.1f} ms  {ratios}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
