#!/usr/bin/env bash
# Draw the pictures of the README and the documentation into docs/images, or into the folder given.
# Needs: pip install '.[plot]'
set -euo pipefail
folder=${1:-"$(dirname "$0")/../docs/images"}
mkdir -p "$folder"
question=(--model_name llama-3.1-8b --gpu_name h100-sxm-80gb)

llm-analysis plot --kind parity --output_file "$folder/parity.png"
llm-analysis plot --kind roofline "${question[@]}" --seq_len 1024 --output_file "$folder/roofline.png"
llm-analysis plan --model_name llama-3.1-70b --gpu_name h100-sxm-80gb,h200-sxm-141gb,a100-sxm-80gb --dtype_name fp8 --seq_len 4000 \
    --num_tokens_to_generate 500 --request_rate 5 --max_ttft 1s --max_tpot 20ms --plot "$folder/pareto.png" >/dev/null
