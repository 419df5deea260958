#!/bin/sh
# Five estimates of a 13B model on one and two A100s: 512 tokens in, 10 out, batch 1.
#
#   run_infer.sh [FOLDER]     writes the summaries into FOLDER (default: outputs/ beside this script)
#   LLM_ANALYSIS="python -m llm_analysis" run_infer.sh     runs another command than `llm-analysis`
set -eu

folder=${1:-$(dirname "$0")/outputs}
mkdir -p "$folder"

estimate() { # GPUs, FLOP efficiency, memory efficiency
    # LLM_ANALYSIS may be several words, so it is not quoted.
    ${LLM_ANALYSIS:-llm-analysis} infer --method published \
        --model_name test-13b --gpu_name a100-sxm-40gb --dtype_name w16a16e16 --tp_size "$1" \
        --batch_size_per_gpu 1 --seq_len 512 --num_tokens_to_generate 10 \
        --flops_efficiency "$2" --hbm_memory_efficiency "$3" --output_dir "$folder"
}

estimate 1 1 1
estimate 1 0.7 0.9
estimate 2 1 1
estimate 2 0.7 0.9
estimate 2 0.7 0.87
