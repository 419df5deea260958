"""What do a million generated tokens cost by batch size? Llama-3.1-8B on one GPU, 1000 tokens in, 200 out."""

from llm_analysis import sweep

PRICES = {"l4-24gb": 0.70, "l40s-48gb": 1.00, "h100-sxm-80gb": 2.50}  # per hour: assumptions, set your own

batches = [1, 4, 16, 64, 256]
print("cost of 1M tokens" + "".join(f"{f'batch {batch}':>14}" for batch in batches))
for gpu, price in PRICES.items():
    rows = sweep(
        "llama-3.1-8b",
        gpu,
        dtype_name="fp8",
        batch_size_per_gpu=batches,
        seq_len=1000,
        num_tokens_to_generate=200,
        cost_per_gpu_hour=price,
        prefill_chunk_size=8192,
    )
    cells = ["does not fit" if not row["fits"] else f"{row['cost_per_million_tokens']:.2f}" for row in rows.rows()]
    print(f"{gpu:17}" + "".join(f"{cell:>14}" for cell in cells))
