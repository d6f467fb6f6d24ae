"""Measured time on a GPU: kernels and networks beside the GPU's limits and beside PyTorch on the same GPU.

minixception bench --device cuda --out docs/results/bench_cuda.json
python -m minixception.bench.records gpu_page docs/results/gpu.md
"""
