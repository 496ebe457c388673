"""The bars of the demo over 100 prompts that its training never saw; minutes, so marked slow."""

import pytest

from export.run.job import Settings
from tests.export.exports import run
from videosdgx.artifacts import verify

CLIPS = 100


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")  # shared: calibration and the unquantized clips are made once


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "psnr", "points"), [("fp8", 36, 2), ("nvfp4", 27, 5)])
def test_clips_of_unseen_prompts(home, precision, psnr, points):
    settings = Settings(home=home, variant="demo", precision=precision, target="cpu", clips=CLIPS)
    accuracy = verify(run("wan21", settings)).accuracy
    assert accuracy["clips"] == CLIPS
    assert accuracy["clip_psnr_db_mean"] >= psnr
    assert accuracy["success_points_lost"] <= points
    assert accuracy["relative_error_fp8_modelopt"] <= 1e-3
    assert precision == "fp8" or accuracy["relative_error_nvfp4_emulation"] <= 1e-3
