"""Which GPU serves Llama-3.1-70B at 5 requests/s, with 4000 tokens in, 500 out, TTFT 1 s and TPOT 20 ms?

The prices are assumptions: set your own. Without prices `plan` looks for the fewest GPUs.
"""

from llm_analysis import plan

PRICES = {"h100-sxm-80gb": 2.50, "h200-sxm-141gb": 3.30, "b200-sxm": 5.50, "a100-sxm-80gb": 1.60, "l40s-48gb": 1.00}

found = plan(
    "llama-3.1-70b",
    list(PRICES),
    seq_len=4000,
    num_tokens_to_generate=500,
    request_rate=5,
    max_ttft="1s",
    max_tpot="20ms",
    prices=PRICES,
)
print(found)
