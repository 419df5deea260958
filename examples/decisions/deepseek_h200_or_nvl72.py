"""Where does DeepSeek-V3 decode faster: on 8 H200, or on 8 to 64 GPUs of a GB200 NVL72?

The experts are spread over all GPUs, and so are the sequences: each GPU holds the attention of its own batch.
"""

from llm_analysis import sweep

SYSTEMS = {
    "8 x H200, tp 8": ("h200-sxm-141gb", "fp8_block", {"tp_size": 8, "ep_size": 8}),
    "8 x H200, dp 8": ("h200-sxm-141gb", "fp8_block", {"dp_size": 8, "ep_size": 8}),
    "8 x GB200": ("gb200-nvl72", "nvfp4", {"dp_size": 8, "ep_size": 8}),
    "32 x GB200": ("gb200-nvl72", "nvfp4", {"dp_size": 32, "ep_size": 32}),
    "64 x GB200": ("gb200-nvl72", "nvfp4", {"dp_size": 64, "ep_size": 64}),
}

print(f"{'':16}{'batch of all GPUs':>18}{'TPOT, ms':>10}{'tokens/s/GPU':>14}{'weights, GB':>13}{'fits':>6}")
for name, (gpu, dtype, layout) in SYSTEMS.items():
    ranks = layout.get("dp_size", 1)
    batches = [batch // ranks for batch in (64, 256, 1024) if batch >= ranks]
    rows = sweep(
        "deepseek-v3",
        gpu,
        dtype_name=dtype,
        batch_size_per_gpu=batches,
        seq_len=4000,
        num_tokens_to_generate=500,
        prefill_chunk_size=8192,
        **layout,
    )
    for row in rows.rows():
        rate = row["decode_tokens_per_sec"] / row["num_gpus"]
        print(
            f"{name:16}{row['batch_size_per_gpu'] * ranks:18,}{row['decode_latency'] * 1e3:10.1f}{rate:14,.0f}"
            f"{row['weight_memory_per_gpu'] / 1e9:13.1f}{'yes' if row['fits'] else 'no':>6}"
        )
