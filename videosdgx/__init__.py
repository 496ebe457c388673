"""videosdgx: four video generation models served from one NVIDIA DGX Spark."""

__version__ = "0.1.0"
