"""A sweep on many machines with Dask: each task writes one shard, and skips the parts that exist.

Needs dask, distributed and pyarrow. Give the address of a scheduler to use a cluster; without one, two local workers.

    python dask_sweep.py FOLDER [tcp://scheduler:8786]
"""

import sys
from pathlib import Path

SHARDS = 4
FLAGS = [
    *("--model_name", "llama-3.1-8b"),
    *("--gpu_name", "h100-sxm-80gb,l40s-48gb"),
    *("--tp_size", "1,2,4"),
    *("--batch_size_per_gpu", "1:256:1"),
    *("--seq_len", "512:8192:512"),
    *("--num_tokens_to_generate", "200"),
]


def shard(i: int, folder: str) -> str:
    """Compute shard i and return the last line of the command."""
    import subprocess

    command = [sys.executable, "-m", "llm_analysis", "sweep", *FLAGS, "--shard", f"{i}/{SHARDS}"]
    done = subprocess.run([*command, "--output_file", folder], check=True, capture_output=True, text=True)
    return done.stdout.strip().splitlines()[-1]


def main(folder: str, scheduler: str | None = None) -> None:
    from dask.distributed import Client

    Path(folder).mkdir(exist_ok=True)
    local = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with Client(scheduler) if scheduler else Client(**local) as client:
        for line in client.gather(client.map(shard, range(1, SHARDS + 1), folder=folder)):
            print(line)

    import pyarrow.parquet as pq

    print(f"{pq.read_table(folder, columns=['fits']).num_rows:,} rows in {len(list(Path(folder).iterdir()))} parts")


if __name__ == "__main__":
    main(*sys.argv[1:])
