"""Build the files of llm_analysis/data from measurements.

measured_kernels   read tables of measured kernels
kernel_fit         fit one kind of kernel
scaled_profiles    profiles of GPUs with few or no measured kernels
build_profiles     write data/kernels and data/links.json
runtime_fit        fit the terms of one runtime
build_runtimes     write data/runtimes
build_bands        write data/residuals.json and data/bands.json
build_host_terms   write data/host_terms.json
build_load_bands   write data/load_bands.json
"""
