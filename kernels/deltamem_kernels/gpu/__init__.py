"""The Triton kernels, for CUDA devices. May import torch and triton; nothing here runs at import."""
