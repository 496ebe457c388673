"""Published times of Wan 2.1, official code in bf16 (docs/specs/wan21.md, section 9)."""

from export.planning.published import Published

_BOUND = "Spark, by arithmetic"  # the specification: the same count at an assumed 60 to 100 TFLOP/s in bf16, nothing measured

FIGURES = (
    Published("t2v-1.3b", 832, 480, 81, 50, "RTX 4090, offloading", (261.4, 261.4), 8.19),
    Published("t2v-14b", 1280, 720, 81, 50, "H20", (6935.5, 6935.5), 69.1),
    Published("t2v-14b", 1280, 720, 81, 50, "A100/A800", (3342.6, 3342.6), 69.1),
    Published("t2v-14b", 1280, 720, 81, 50, "H100/H800", (1837.9, 1837.9), 69.1),
    Published("t2v-1.3b", 832, 480, 81, 50, _BOUND, (300, 480)),
    Published("t2v-14b", 832, 480, 81, 50, _BOUND, (1800, 3000)),
    Published("t2v-14b", 832, 480, 81, 4, _BOUND, (72, 120), guided=False),
    Published("t2v-14b", 1280, 720, 81, 50, _BOUND, (7200, 10800)),
)
