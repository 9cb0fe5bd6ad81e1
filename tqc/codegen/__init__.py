"""Targets and the tools that turn kernels into machine code: names of architectures, nvcc, the CUDA build."""
