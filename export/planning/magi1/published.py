"""Published times of MAGI-1, official code in bf16 (docs/specs/magi1.md, section 11)."""

from export.planning.published import Published

# Issue 56 of the official repository: 33 minutes to the first second of video, then 9 minutes a second. The size is not
# told: taken as the example configuration's.
FIGURES = (Published("4.5b-base", 720, 720, 96, 64, "RTX 4090", (60 * (33 + 3 * 9),) * 2, 24),)
