"""The same estimate from Python: one answer after another, then a whole axis of prompt lengths at once."""

import numpy as np

from llm_analysis import LLMAnalysis, Parallelism, Step, get_dtypes, get_gpu, get_model, get_runtime

analysis = LLMAnalysis(
    get_model("llama-3.1-70b"),
    get_gpu("h100-sxm-80gb"),
    get_dtypes("fp8"),
    Parallelism(tp_size=4),
    runtime=get_runtime("tensorrt-llm"),
)

for batch in (1, 32, 256):
    e = analysis.inference(batch_size_per_gpu=batch, seq_len=2048, num_tokens_to_generate=256)
    slowest = max((row for row in e.operators if row.phase == "decode"), key=lambda row: row.seconds)
    print(
        f"batch {batch:3}: TTFT {e.prefill_latency * 1e3:7.1f} ms, TPOT {e.decode_latency * 1e3:5.2f} ms, "
        f"{e.decode_tokens_per_sec:6,.0f} tokens/s, fits: {e.fits}; "
        f"most of a decode step: {slowest.name}, bound by {slowest.bound}"
    )

prompts = np.array([128.0, 512.0, 2048.0, 8192.0])
print("prefill of one prompt, ms:", np.round(1e3 * analysis.seconds(Step(1.0, prompts)), 2))
