"""FP8 and NVFP4: formats, the layers that hold them, calibration, emulation."""
