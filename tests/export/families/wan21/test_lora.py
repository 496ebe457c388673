"""LoRA files in the spellings found in the wild: fused as diffusers names and scales them, and refused in words."""

from pathlib import Path

import pytest
import torch
from diffusers.loaders.lora_conversion_utils import (
    _convert_musubi_wan_lora_to_diffusers,
    _convert_non_diffusers_wan_lora_to_diffusers,
)
from safetensors.torch import save_file
from torch import Tensor, nn

from export.checkpoint import lora
from export.checkpoint.lora import FusedTensors, LoraFile, Loras
from export.families.wan21.lora import original_name
from export.families.wan21.lowered import WanConfig
from export.run.errors import ExportError
from tests.families.wan21.tiny import random_inputs, random_transformer

IMAGE = {"image_dim": 24, "added_kv_proj_dim": 48, "in_channels": 36}
MODEL = random_transformer(**IMAGE)
STATE = MODEL.state_dict()
SHAPES = {name: tuple(tensor.shape) for name, tensor in STATE.items()}
RANK = 4


def write(path: Path, tensors: dict[str, Tensor], **metadata: str) -> LoraFile:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata or None)
    return LoraFile(path)


def fused(*files: LoraFile, state: dict[str, Tensor] = STATE) -> dict[str, Tensor]:
    return dict(FusedTensors(state, Loras(files, SHAPES, original_name)))


def linears() -> dict[str, nn.Linear]:
    return {name: layer for name, layer in MODEL.named_modules() if isinstance(layer, nn.Linear)}


def pair(layer: str, rank: int = RANK) -> tuple[Tensor, Tensor]:
    weight = MODEL.get_submodule(layer).weight
    return torch.randn(rank, weight.shape[1]), torch.randn(weight.shape[0], rank)


def official(prefix: str, down: str, up: str, alpha: bool, layers: list[str]) -> dict[str, Tensor]:
    torch.manual_seed(3)
    tensors = {}
    for layer in layers:
        name = f"{prefix}{original_name(layer)}"
        tensors[f"{name}.{down}.weight"], tensors[f"{name}.{up}.weight"] = pair(layer)
        if alpha:
            tensors[f"{name}.alpha"] = torch.tensor(2.0)
    return tensors


def by_diffusers(converted: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights after the low-rank changes in diffusers' own names, added up in plain torch."""
    expected = dict(STATE)
    for name, down in converted.items():
        if name.endswith(".lora_A.weight"):
            layer = name.removeprefix("transformer.").removesuffix(".lora_A.weight")
            expected[f"{layer}.weight"] = STATE[f"{layer}.weight"] + converted[name.replace("lora_A", "lora_B")] @ down
        if name.endswith(".lora_B.bias"):
            layer = name.removeprefix("transformer.").removesuffix(".lora_B.bias")
            expected[f"{layer}.bias"] = STATE[f"{layer}.bias"] + down
    return expected


def assert_same(result: dict[str, Tensor], expected: dict[str, Tensor], changed: int) -> None:
    assert result.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(result[name], tensor, rtol=1e-5, atol=1e-5, msg=name)
    assert sum(not torch.equal(tensor, STATE[name]) for name, tensor in result.items()) == changed


# diffusers' conversion scales by alpha only inside blocks.
@pytest.mark.parametrize(
    ("down", "up", "alpha"),
    [("lora_down", "lora_up", True), ("lora_down", "lora_up", False), ("lora_A", "lora_B", False)],
)
def test_official_names_as_diffusers_converts_them(tmp_path, down, up, alpha):
    layers = [layer for layer in linears() if layer.startswith("blocks.") or not alpha]
    tensors = official("diffusion_model.", down, up, alpha, layers)
    if not alpha:
        for layer in ("blocks.0.attn1.to_q", "blocks.1.attn2.add_v_proj", "blocks.1.ffn.net.0.proj", "proj_out"):
            tensors[f"diffusion_model.{original_name(layer)}.diff_b"] = torch.randn_like(STATE[f"{layer}.bias"])
    result = fused(write(tmp_path / "lora.safetensors", tensors))
    # The conversion scales some matrices in place, so it comes second.
    expected = by_diffusers(_convert_non_diffusers_wan_lora_to_diffusers(dict(tensors)))
    assert_same(result, expected, len(layers) + (0 if alpha else 4))


def test_underscored_names_as_diffusers_converts_them(tmp_path):
    layers = [layer for layer in linears() if layer.startswith("blocks.")]
    dotted = official("", "lora_down", "lora_up", True, layers)
    tensors = {}
    for name, tensor in dotted.items():
        suffix = next(part for part in (".lora_down.weight", ".lora_up.weight", ".alpha") if name.endswith(part))
        tensors["lora_unet_" + name.removesuffix(suffix).replace(".", "_") + suffix] = tensor
    result = fused(write(tmp_path / "lora.safetensors", tensors))
    assert_same(result, by_diffusers(_convert_musubi_wan_lora_to_diffusers(dict(tensors))), len(layers))


# {} is a layer in the official spelling, or with `own` in diffusers'; `flat` has underscores instead of dots.
SPELLINGS = (
    ("pipe.dit.{}.lora_A.default.weight", ()),
    ("diffusion_model.{}.lora_A.my_style.weight", ()),
    ("module._orig_mod.{}.lora_A.weight", ("own",)),
    ("model.diffusion_model.{}.lora_down.weight", ()),
    ("base_model.model.transformer.{}.lora_A.weight", ("own",)),
    ("unet.{}.lora_A.weight", ("own",)),
    ("unet.{}.lora.down.weight", ("own",)),
    ("transformer.{}.lora_linear_layer.down.weight", ("own",)),
    ("lora_transformer_{}.lora_down.weight", ("own", "flat")),
    ("lora_unet_{}.lora_down.weight", ("own", "flat")),
    ("lora_unet__{}.lora_down.weight", ("flat",)),
    ("lycoris_{}.lora_down.weight", ("flat",)),
    ("lora_unet.{}.lora_down.weight", ()),
    ("lora_unet_{}.lora_down.weight", ()),
    ("lora_transformer.{}.lora_down.weight", ("own",)),
)


@pytest.mark.parametrize(("pattern", "style"), SPELLINGS)
def test_other_spellings_are_read(tmp_path, pattern, style):
    torch.manual_seed(6)
    tensors, expected = {}, dict(STATE)
    for layer in linears():
        name = layer if "own" in style else original_name(layer)
        name = pattern.format(name.replace(".", "_") if "flat" in style else name)
        down, up = pair(layer)
        up_name = name.replace("lora_A", "lora_B").replace("lora_down", "lora_up").replace(".down", ".up")
        tensors |= {name: down, up_name: up}
        expected[f"{layer}.weight"] = STATE[f"{layer}.weight"] + up @ down
    assert_same(fused(write(tmp_path / "lora.safetensors", tensors)), expected, len(linears()))


def test_two_adapters_and_two_spellings_of_a_layer_are_added(tmp_path):
    spellings = (
        "transformer.blocks.0.attn1.to_q.lora_{A}.default_0.weight",
        "transformer.blocks.0.attn1.to_q.lora_{A}.default_1.weight",
        "diffusion_model.blocks.0.self_attn.q.lora_{A}.weight",
        "diffusion_model.blocks.0.self_attn.q.lora_{down}.weight",
        "lora_unet_blocks_0_self_attn_q.lora_{down}.weight",
    )
    tensors, total = {}, STATE["blocks.0.attn1.to_q.weight"].clone()
    for rank, spelling in enumerate(spellings, 2):
        down, up = pair("blocks.0.attn1.to_q", rank)
        tensors |= {spelling.format(A="A", down="down"): down, spelling.format(A="B", down="up"): up}
        total += up @ down * (0.5 if "unet" in spelling else 1)
    tensors["lora_unet_blocks_0_self_attn_q.alpha"] = torch.tensor(3.0)  # of rank 6
    for name in ("diffusion_model.blocks.0.self_attn.q.diff", "blocks.0.attn1.to_q.diff"):
        tensors[name] = torch.randn_like(total)
        total += tensors[name]
    result = fused(write(tmp_path / "lora.safetensors", tensors))["blocks.0.attn1.to_q.weight"]
    torch.testing.assert_close(result, total, rtol=1e-5, atol=1e-5)


def test_a_name_that_can_mean_two_layers_is_refused(tmp_path):
    shapes = {"a.b.weight": (4, 4), "a_b.weight": (4, 4)}
    file = write(tmp_path / "lora.safetensors", {"lycoris_a_b.diff": torch.ones(4, 4)})
    with pytest.raises(ExportError, match=r"a layer lycoris_a_b, which can mean a\.b or a_b"):
        Loras([file], shapes, str)


@pytest.mark.parametrize(("prefix", "adapter"), [("transformer.", ""), ("base_model.model.", ".default"), ("", ".default_0")])
def test_diffusers_names(tmp_path, prefix, adapter):
    tensors, plain = {}, {}
    for layer in linears():
        for part, matrix in zip("AB", pair(layer), strict=True):
            tensors[f"{prefix}{layer}.lora_{part}{adapter}.weight"] = plain[f"{layer}.lora_{part}.weight"] = matrix
    expected = by_diffusers(plain)
    assert_same(fused(write(tmp_path / "lora.safetensors", tensors)), expected, len(linears()))


def test_settings_that_diffusers_writes_into_the_header(tmp_path):
    down, up = pair("proj_out")
    tensors = {"transformer.proj_out.lora_A.weight": down, "transformer.proj_out.lora_B.weight": up}
    for settings, factor in (
        ('{"transformer.r": 4, "transformer.lora_alpha": 8}', 2.0),
        ('{"transformer.lora_alpha": 8, "transformer.use_rslora": true}', 4.0),
        ('{"transformer.lora_alpha": 8, "transformer.alpha_pattern": {"proj_out": 1}}', 0.25),
    ):
        file = write(tmp_path / "lora.safetensors", tensors, lora_adapter_metadata=settings)
        result = fused(file)["proj_out.weight"]
        torch.testing.assert_close(result, STATE["proj_out.weight"] + factor * up @ down)


def test_differences_of_norms_biases_tables_and_the_convolution(tmp_path):
    names = {
        "diffusion_model.blocks.0.norm3.diff": "blocks.0.norm2.weight",
        "diffusion_model.blocks.0.norm3.diff_b": "blocks.0.norm2.bias",
        "diffusion_model.blocks.0.self_attn.norm_q.diff": "blocks.0.attn1.norm_q.weight",
        "diffusion_model.blocks.1.cross_attn.norm_k_img.diff": "blocks.1.attn2.norm_added_k.weight",
        "diffusion_model.blocks.1.cross_attn.o.diff_b": "blocks.1.attn2.to_out.0.bias",
        "diffusion_model.blocks.1.diff_m": "blocks.1.scale_shift_table",
        "diffusion_model.blocks.0.modulation.diff": "blocks.0.scale_shift_table",
        "diffusion_model.head.diff_m": "scale_shift_table",
        "diffusion_model.head.head.diff": "proj_out.weight",
        "diffusion_model.img_emb.proj.4.diff": "condition_embedder.image_embedder.norm2.weight",
        "diffusion_model.patch_embedding.diff": "patch_embedding.weight",
        "diffusion_model.time_projection.1.diff_b": "condition_embedder.time_proj.bias",
    }
    tensors = {name: torch.randn_like(STATE[parameter]) for name, parameter in names.items()}
    expected = STATE | {parameter: STATE[parameter] + tensors[name] for name, parameter in names.items()}
    assert_same(fused(write(tmp_path / "lora.safetensors", tensors)), expected, len(names))


def test_a_low_rank_change_of_the_convolution(tmp_path):
    weight = STATE["patch_embedding.weight"]
    down, up = torch.randn(RANK, *weight.shape[1:]), torch.randn(weight.shape[0], RANK, 1, 1, 1)
    tensors = {"patch_embedding.lora_down.weight": down, "patch_embedding.lora_up.weight": up}
    expected = weight + torch.einsum("or,rcthw->octhw", up.flatten(1), down)
    torch.testing.assert_close(fused(write(tmp_path / "l.safetensors", tensors))["patch_embedding.weight"], expected)


def test_the_original_names_are_the_official_ones():
    known = (
        "blocks.0.self_attn.q blocks.0.cross_attn.o blocks.0.cross_attn.k_img blocks.0.ffn.0 text_embedding.0 time_embedding.2"
    )
    names = {original_name(name.rpartition(".")[0]) for name in STATE}
    assert set(known.split()) < names and len(names) == len({name.rpartition(".")[0] for name in STATE})


def test_scales_add_up_and_only_changed_tensors_leave_their_dtype(tmp_path):
    state = {name: tensor.bfloat16() for name, tensor in STATE.items()}
    torch.manual_seed(4)
    files, total = [], torch.zeros_like(STATE["proj_out.weight"])
    for index, scale in enumerate((0.5, -2.0)):
        down, up = pair("proj_out")
        tensors = {"proj_out.lora_A.weight": down.half(), "proj_out.lora_B.weight": up.half()}
        files.append(LoraFile(write(tmp_path / f"{index}.safetensors", tensors).path, scale))
        total += scale * up.half().float() @ down.half().float()
    result = fused(*files, state=state)
    assert {tensor.dtype for name, tensor in result.items() if name != "proj_out.weight"} == {torch.bfloat16}
    torch.testing.assert_close(result["proj_out.weight"], state["proj_out.weight"].float() + total)


def test_the_fused_model_computes_what_the_adapter_does(tmp_path):
    """Beside the weights: the branch up(down(x)) at every linear layer, as peft runs it."""
    torch.manual_seed(5)
    tensors, adapted = {}, random_transformer(**IMAGE)
    for name, layer in [(name, layer) for name, layer in adapted.named_modules() if isinstance(layer, nn.Linear)]:
        down, up = (0.1 * matrix for matrix in pair(name))
        tensors[f"transformer.{name}.lora_A.weight"], tensors[f"transformer.{name}.lora_B.weight"] = down, up
        layer.register_forward_hook(lambda _, given, out, down=down, up=up: out + 0.7 * given[0] @ down.T @ up.T)
    file = LoraFile(write(tmp_path / "lora.safetensors", tensors).path, 0.7)
    model = random_transformer(**IMAGE)
    model.load_state_dict(fused(file))
    inputs = random_inputs(WanConfig.from_dict(dict(model.config)))
    with torch.no_grad():
        result, expected, plain = (m(**inputs).sample for m in (model, adapted, MODEL))
    assert (result - expected).norm() / expected.norm() < 1e-5
    assert (result - plain).norm() / plain.norm() > 0.01


def test_only_the_tensor_that_is_asked_for_is_read(tmp_path):
    class Watched(dict[str, Tensor]):
        def __getitem__(self, name: str) -> Tensor:
            seen.append(name)
            return super().__getitem__(name)

    down, up = pair("proj_out")
    file = write(tmp_path / "lora.safetensors", {"proj_out.lora_A.weight": down, "proj_out.lora_B.weight": up})
    seen: list[str] = []
    tensors = FusedTensors(Watched(STATE), Loras([file], SHAPES, original_name))
    assert torch.equal(tensors["proj_out.weight"], STATE["proj_out.weight"] + up @ down)
    assert seen == ["proj_out.weight"] and set(tensors) == set(STATE)


def test_facts_for_the_manifest(tmp_path):
    tensors = official("diffusion_model.", "lora_down", "lora_up", True, ["blocks.0.attn1.to_q", "proj_out"])
    (facts,) = Loras([LoraFile(write(tmp_path / "four_steps.safetensors", tensors).path, 0.8)], SHAPES, original_name).facts()
    assert (facts.name, facts.scale, facts.layers, len(facts.sha256)) == ("four_steps.safetensors", 0.8, 2, 64)


def test_file_and_scale(tmp_path):
    assert lora.parse("a/b.safetensors") == LoraFile(Path("a/b.safetensors"), 1.0)
    assert lora.parse("b.safetensors:0.5") == LoraFile(Path("b.safetensors"), 0.5)
    assert lora.parse("C:x") == LoraFile(Path("C:x"), 1.0)
    (tmp_path / "x:2").touch()
    assert lora.parse(f"{tmp_path}/x:2") == LoraFile(tmp_path / "x:2", 1.0)
    with pytest.raises(ExportError, match=r"the scale nan of the LoRA b\.safetensors is not a finite number"):
        lora.parse("b.safetensors:nan")


Q = "transformer.blocks.0.attn1.to_q"
BAD = {
    "unknown layer": ({"transformer.blocks.7.attn1.to_q.diff": (48, 48)}, "a layer transformer.blocks.7.attn1.to_q that this"),
    "unknown kind": ({f"{Q}.hada_w1_a": (4, 4)}, "hada_w1_a of a kind that is not known"),
    "a DoRA": ({f"{Q}.dora_scale": (48, 1)}, "dora_scale of a kind that is not known"),
    "half missing": ({f"{Q}.lora_A.weight": (4, 48)}, "lora_A.weight without the up matrix"),
    "ranks differ": ({f"{Q}.lora_A.weight": (4, 48), f"{Q}.lora_B.weight": (48, 8)}, r"ranks of .* \(4, 48\) and .* \(48, 8\)"),
    "wrong width": ({f"{Q}.lora_A.weight": (4, 64), f"{Q}.lora_B.weight": (48, 4)}, r"has the shape \(48, 48\): it is for"),
    "wrong bias": ({f"{Q}.diff_b": (64,)}, r"to_q.bias of shape \(48,\) by .* of shape \(64,\): it is for another model"),
    "no such bias": ({"transformer.blocks.0.attn1.norm_q.diff_b": (48,)}, "norm_q.bias, which this model does not have"),
    "alpha alone": ({f"{Q}.alpha": ()}, "an alpha for blocks.0.attn1.to_q and no matrices"),
    "rank 0": ({f"{Q}.lora_A.weight": (0, 48), f"{Q}.lora_B.weight": (48, 0)}, r"lora_A.weight \(0, 48\) .* has rank 0"),
    "one number": ({f"{Q}.lora_A.weight": (), f"{Q}.lora_B.weight": ()}, r"ranks of .*lora_A.weight \(\) and .* differ"),
    "folded": ({f"{Q}.lora_A.weight": (4, 48), f"{Q}.lora_B.weight": (48, 2, 2)}, r"ranks of .* \(48, 2, 2\)"),
    "another kernel": (
        {"patch_embedding.lora_down.weight": (4, 2, 36, 1, 2), "patch_embedding.lora_up.weight": (48, 4)},
        r"\(patch_embedding.lora_down.weight\), its weight has the shape \(48, 36, 1, 2, 2\)",
    ),
    "axes changed places": ({"patch_embedding.diff": (36, 48, 1, 2, 2)}, r"patch_embedding.diff of shape \(36, 48, 1, 2, 2\)"),
    "of a text encoder": ({"lora_te_text_model_q.diff": (4, 4)}, "a layer lora_te_text_model_q that this model does not have"),
    "of Wan 2.2's second": ({"transformer_2.blocks.0.attn1.to_q.diff": (48, 48)}, "a layer transformer_2.blocks.0.attn1.to_q"),
    "empty": ({}, "holds no tensors"),
}


PAIR = {f"{Q}.lora_A.weight": torch.ones(4, 48), f"{Q}.lora_B.weight": torch.ones(48, 4)}
WITH_VALUES = {
    "NaN": (
        PAIR | {f"{Q}.lora_B.weight": torch.full((48, 4), torch.nan)},
        r"to_q\.lora_B\.weight with NaN at \[0, 0\] and 191",
    ),
    "infinite": (
        PAIR | {f"{Q}.lora_A.weight": torch.full((4, 48), -torch.inf)},
        r"to_q\.lora_A\.weight with an infinite value",
    ),
    "NaN in a bias": ({f"{Q}.diff_b": torch.full((48,), torch.nan)}, r"to_q\.diff_b with NaN at \[0\] and 47 more"),
    "alpha of two": (PAIR | {f"{Q}.alpha": torch.ones(2)}, r"to_q\.alpha of shape \(2,\) and dtype F32, it must be one number"),
    "alpha of none": (
        PAIR | {f"{Q}.alpha": torch.ones(0)},
        r"to_q\.alpha of shape \(0,\) and dtype F32, it must be one number",
    ),
    "alpha as text": (PAIR | {f"{Q}.alpha": torch.tensor([56]).byte()}, r"to_q\.alpha .* dtype U8, it must be one number"),
    "alpha NaN": (PAIR | {f"{Q}.alpha": torch.tensor(torch.nan)}, r"to_q\.alpha of the LoRA .* is nan, it must be a number"),
    "alpha zero": (PAIR | {f"{Q}.alpha": torch.tensor(0)}, r"to_q\.alpha of the LoRA .* is 0\.0, it must be a number other"),
    "alpha of which": (
        PAIR
        | {f"{Q}.lora_A.two.weight": torch.ones(4, 48), f"{Q}.lora_B.two.weight": torch.ones(48, 4)}
        | {f"{Q}.alpha": torch.tensor(2.0)},
        r"has one transformer.*\.alpha and both .*lora_A\.two\.weight.*: nobody can tell",
    ),
    "int8": ({name: value.char() for name, value in PAIR.items()}, r"to_q\.lora_A\.weight in I8 without a scale"),
    "int8 difference": ({f"{Q}.diff": torch.ones(48, 48).char()}, r"to_q\.diff in I8 without a scale"),
}


@pytest.mark.parametrize(("tensors", "message"), WITH_VALUES.values(), ids=WITH_VALUES.keys())
def test_values_that_are_none_are_named(tmp_path, tensors, message):
    file = write(tmp_path / "bad.safetensors", tensors)
    with pytest.raises(ExportError, match=message) as error:
        fused(file)
    assert "\n" not in str(error.value)


WITH_SETTINGS = {
    "alpha as text": ('{"transformer.lora_alpha": "8"}', "lora_alpha in the header of the LoRA .* is '8', it must be a number"),
    "alpha as list": ('{"transformer.lora_alpha": [8, 8]}', r"is \[8, 8\], it must be a number"),
    "alpha infinite": ('{"transformer.lora_alpha": Infinity}', "is inf, it must be a number"),
    "bad pattern": ('{"transformer.alpha_pattern": {"to_(q": 1}}', r"alpha_pattern with 'to_\(q', which is no pattern"),
    "pattern of text": ('{"transformer.alpha_pattern": {"to_q": "x"}}', "alpha_pattern of 'to_q' in .* is 'x', it must be"),
    "patterns in a list": ('{"transformer.rank_pattern": ["to_q"]}', "a rank_pattern that is not a JSON object"),
    "other rank": ('{"transformer.r": 8}', r"says that blocks\.0\.attn1\.to_q has rank 8, its matrices have 4"),
    "switch as text": ('{"transformer.use_rslora": "no"}', "says use_rslora 'no', it must be true or false"),
    "a DoRA": ('{"transformer.use_dora": true}', "is a DoRA"),
    "transposed": ('{"transformer.fan_in_fan_out": true}', "says fan_in_fan_out"),
    "other start": ('{"transformer.init_lora_weights": "pissa_niter_4"}', "says init_lora_weights 'pissa_niter_4'"),
    "no object": ("[]", "settings that are not a JSON object"),
}


@pytest.mark.parametrize(("settings", "message"), WITH_SETTINGS.values(), ids=WITH_SETTINGS.keys())
def test_settings_that_say_nothing_certain_are_named(tmp_path, settings, message):
    file = write(tmp_path / "bad.safetensors", PAIR, lora_adapter_metadata=settings)
    with pytest.raises(ExportError, match=message):
        fused(file)


def test_the_first_pattern_that_fits_counts_as_in_peft(tmp_path):
    settings = '{"transformer.lora_alpha": 8, "transformer.alpha_pattern": {"attn1.to_q": 2, "to_q": 4}, "transformer.r": 4}'
    result = fused(write(tmp_path / "lora.safetensors", PAIR, lora_adapter_metadata=settings))
    name = "blocks.0.attn1.to_q.weight"
    torch.testing.assert_close(result[name], STATE[name] + 0.5 * 4)


def test_settings_of_one_of_two_adapters_are_refused(tmp_path):
    second = {name.replace(".weight", ".second.weight"): tensor.clone() for name, tensor in PAIR.items()}
    file = write(tmp_path / "lora.safetensors", PAIR | second, lora_adapter_metadata='{"transformer.lora_alpha": 8}')
    with pytest.raises(ExportError, match="several adapters and the settings of one"):
        fused(file)


def test_a_scale_beyond_what_a_weight_can_be_is_refused(tmp_path):
    file = LoraFile(write(tmp_path / "lora.safetensors", PAIR).path, 1e38)
    with pytest.raises(ExportError, match=r"times 1e\+38 makes blocks\.0\.attn1\.to_q\.weight an infinite value"):
        fused(file)


@pytest.mark.parametrize(("shapes", "message"), BAD.values(), ids=BAD.keys())
def test_what_does_not_fit_is_named(tmp_path, shapes, message):
    file = write(tmp_path / "bad.safetensors", {name: torch.ones(shape) for name, shape in shapes.items()})
    with pytest.raises(ExportError, match=message):
        fused(file)


def test_missing_files_pickles_and_cut_files_are_refused(tmp_path):
    with pytest.raises(ExportError, match=r"no LoRA file at .*nowhere"):
        fused(LoraFile(tmp_path / "nowhere.safetensors"))
    pickle = tmp_path / "lora.pt"
    torch.save({"x": torch.ones(2)}, pickle)
    with pytest.raises(ExportError, match="a pickle is not read"):
        fused(LoraFile(pickle))
    whole = write(tmp_path / "lora.safetensors", {f"{Q}.diff": torch.ones(48, 48)}).path
    whole.write_bytes(whole.read_bytes()[:-10])
    with pytest.raises(ExportError, match="not a whole safetensors file"):
        fused(LoraFile(whole))
