"""Make a clip of so many chunks without keeping it, and print the most memory that this process ever had, in kB.

It runs in a process of its own, as the peak of a process never falls.
"""

import resource
import sys

import torch

from tests.families.magi1.tiny import tiny_pipeline
from videosdgx.families.magi1.sampling.start import FRAMES_PER_CHUNK


def main() -> None:
    torch.set_num_threads(1)
    chunks = int(sys.argv[1])
    pipeline = tiny_pipeline()
    frames = 0
    for chunk in pipeline.stream(
        "a red circle moving right",
        height=192,
        width=192,
        num_frames=chunks * FRAMES_PER_CHUNK,
        num_inference_steps=4,
        generator=torch.Generator().manual_seed(1),
    ):
        frames += len(chunk)
    assert frames == chunks * FRAMES_PER_CHUNK
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


if __name__ == "__main__":
    main()
