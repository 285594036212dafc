"""Steps of benchmarks/gpu.py; each is a module that runs in a process of its own."""
