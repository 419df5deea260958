"""What does fp8 gain over bf16 for Llama-3.1-70B on four H200, by batch size?"""

from llm_analysis import sweep

rows = sweep(
    "llama-3.1-70b",
    "h200-sxm-141gb",
    dtype_name=["bf16", "fp8"],
    tp_size=4,
    batch_size_per_gpu="1:256:*4",
    seq_len=4000,
    num_tokens_to_generate=500,
)
bf16, fp8 = rows.where("dtype=bf16"), rows.where("dtype=fp8")

print("batch  TTFT bf16   fp8  gain  TPOT bf16   fp8  gain  largest batch bf16   fp8")
for i, batch in enumerate(fp8["batch_size_per_gpu"]):
    ttft = [float(table["prefill_latency"][i]) for table in (bf16, fp8)]
    tpot = [float(table["decode_latency"][i]) * 1e3 for table in (bf16, fp8)]
    largest = [int(table["max_batch_size_per_gpu"][i]) for table in (bf16, fp8)]
    print(
        f"{batch:5} {ttft[0]:8.2f} s {ttft[1]:5.2f} {ttft[0] / ttft[1]:5.2f} "
        f"{tpot[0]:7.1f} ms {tpot[1]:5.1f} {tpot[0] / tpot[1]:5.2f} {largest[0]:19} {largest[1]:5}"
    )
