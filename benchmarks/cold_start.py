"""How long a user waits for one answer, beside the least that the three libraries it stands on take to import.

    python benchmarks/cold_start.py [pairs]

Both are whole processes and alternate, so a busy machine slows both. The target is a ratio of at most 1.25. Byte code
is kept from the first run on, as after every installation.
"""

import os
import statistics
import subprocess
import sys
import time

LIBRARIES = [sys.executable, "-c", "import fire, pydantic, tabulate"]
ANSWER = [sys.executable, "-m", "llm_analysis", "infer", "--model_name", "test-13b", "--gpu_name", "a100-sxm-40gb"]

ENVIRONMENT = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}


def wall_seconds(command: list[str]) -> float:
    """Seconds from start to exit of one process, its output thrown away."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=ENVIRONMENT)
    return time.perf_counter() - start


def main(pairs: int = 20) -> None:
    wall_seconds(LIBRARIES), wall_seconds(ANSWER)  # warm-up: byte code and file cache
    libraries, answer = zip(*((wall_seconds(LIBRARIES), wall_seconds(ANSWER)) for _ in range(pairs)), strict=True)
    for name, seconds in (("import fire, pydantic, tabulate", libraries), ("llm-analysis infer", answer)):
        print(f"{name:32} median {statistics.median(seconds) * 1e3:6.1f} ms  least {min(seconds) * 1e3:6.1f} ms")
    of_medians = statistics.median(answer) / statistics.median(libraries)
    print(f"{'ratio (target: at most 1.25)':32} median {of_medians:6.3f}     least {min(answer) / min(libraries):6.3f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
