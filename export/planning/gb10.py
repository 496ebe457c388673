"""GB10 (DGX Spark) in the few numbers that planning needs, with their sources.

NVIDIA publishes one tensor-core figure: one petaFLOP of FP4 with sparsity, and the bandwidth and size of the memory
(product page of the DGX Spark, nvidia.com/en-us/products/workstations/dgx-spark); at Hot Chips 2025 it added about
31 teraFLOPS of FP32. The other peaks follow from the ratios of the architecture: dense is half of sparse, and each
doubling of the width of the numbers halves the rate. They are bounds that no program reaches: J. Carmack reported
about half of them for his Spark. `--efficiency` is the fraction that a plan assumes.
"""

from typing import Literal

Arithmetic = Literal["fp32", "fp16", "fp8", "nvfp4"]

PEAK_FLOPS: dict[Arithmetic, float] = {"nvfp4": 500e12, "fp8": 250e12, "fp16": 125e12, "fp32": 31e12}  # per second, dense
BANDWIDTH = 273e9  # bytes per second, shared by CPU and GPU

SOURCES = (
    "GB10: 1 PFLOP/s FP4 with sparsity, 273 GB/s, 128 GB (NVIDIA's product page), 31 TFLOP/s FP32 (Hot Chips 2025);"
    " from these by halving: 500 FP4, 250 FP8, 125 FP16/BF16 dense"
)
