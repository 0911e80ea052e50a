"""Kernels in C for encoder layers on x86 CPUs."""
