"""MAGI-1's network against reference tensors: whole forwards, a chain of forwards with a cache, and their parts."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tests.reference.checks import Check, absolute, exact, largest, relative_l2
from tests.reference.manifest import Reference
from videosdgx.families.magi1.network.block import INTERLEAVED_PIECES
from videosdgx.families.magi1.network.embeddings import timestep_embedding
from videosdgx.families.magi1.network.fp8 import Fp8Linear, quantize_activation
from videosdgx.families.magi1.network.rotary import MagiRotaryPosEmbed, rotate, token_positions
from videosdgx.families.magi1.network.transformer import PATCH, MagiTransformer3DModel

FP32_LIMIT, DISTILLED_LIMIT, MIXED_LIMIT = 5e-5, 4e-4, 3e-3
ROTARY_LIMIT, FP8_LIMIT = 2e-5, 5e-3

# Official configuration names to ours; the others are called the same.
RENAMED = {"kv_channels": "attention_head_dim", "layernorm_epsilon": "eps"}
FIXED = {"apply_layernorm_1p": True, "patch_size": 2, "t_patch_size": 1, "cond_gating_ratio": 1.0}


def build(reference: Reference, name: str) -> MagiTransformer3DModel:
    """A model of the manifest with its weights as stored, strictly."""
    described = reference.model(name)
    config = dict(described["model_config"])
    for key, value in FIXED.items():
        if config.pop(key) != value:
            raise ValueError(f"{name}: {key} other than {value} does not exist")
    config = {RENAMED.get(key, key): value for key, value in config.items()}
    model = MagiTransformer3DModel(**config, fp8_layers=described.get("quantised_layers", []))
    model.load_state_dict(reference.load(described["weights"]), strict=True)
    return model.eval()


def _tokens_first(output: Tensor) -> Tensor:
    return output.transpose(0, 1)


def _note_attention(seen: dict[str, Tensor], name: str, _module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    pieces = inputs[0].unflatten(-1, (INTERLEAVED_PIECES, 2, -1))
    for index, which in enumerate(("self_attn", "cross_attn")):
        seen[f"{name}.{which}"] = _tokens_first(pieces[..., index, :].flatten(-2))


def record(model: MagiTransformer3DModel, seen: dict[str, Tensor]) -> None:
    """Have a model note the intermediate tensors of its next forwards, named as in the manifest."""

    def note(module: nn.Module, name: str, shape: Callable[[Any], Tensor] = _tokens_first) -> None:
        module.register_forward_hook(lambda _module, _inputs, output: seen.update({name: shape(output)}))

    for index, layer in enumerate(model.layers):
        name = f"mid.layer{index}"
        attention = layer.self_attention
        attention.linear_proj.register_forward_pre_hook(partial(_note_attention, seen, name))
        note(attention.linear_proj, f"{name}.attn_proj")
        note(layer.ada_modulate_layer, f"{name}.gate_pre_tanh", lambda output: output)
        note(layer.mlp, f"{name}.mlp")
        note(layer, f"{name}.out", lambda output: _tokens_first(output[0]))
    note(model.videodit_blocks.final_layernorm, "mid.final_norm")
    note(model.rope, "mid.rope", lambda output: torch.cat([output[1], output[0]], dim=-1))


class _Call:
    """The inputs of one evaluation, as the manifest stores them."""

    def __init__(self, facts: dict[str, Any], tensors: dict[str, Tensor], prefix: str, step_size: float | None) -> None:
        self.x, self.t = tensors[f"{prefix}in.x"], tensors[f"{prefix}in.t"]
        self.y, self.mask = tensors[f"{prefix}in.y"], tensors[f"{prefix}in.mask"].bool()
        self.first_chunk, self.has_text = facts["first_chunk"], not facts["caption_dropped"]
        self.step_size = step_size
        self.clips, self.chunks = self.t.shape
        _, _, frames, height, width = self.x.shape
        self.chunk_width = frames // self.chunks
        self.tokens = self.chunk_width * (height // PATCH) * (width // PATCH)
        # The manifest counts tokens over the whole batch, we count from the start of each clip.
        before = torch.arange(self.clips).repeat_interleave(self.chunks) * self.tokens * self.chunks
        self.kv_range = tensors[f"{prefix}in.kv_range"] - before[:, None]

    def count_from_the_start(self) -> None:
        """Without a cache the first token of [cache ; current] is the first one given, wherever that is in the video."""
        if self.kv_range.max() <= self.chunks * self.tokens:
            self.kv_range = self.kv_range + self.first_chunk * self.tokens

    @property
    def ranges(self) -> list[tuple[int, int]] | None:
        """Key ranges in chunks; none if they do not all end with their chunk, or cut one."""
        ranges = [(first / self.tokens, end / self.tokens) for first, end in self.kv_range.tolist()]
        ends = [end == self.first_chunk + index + 1 for index, (_, end) in enumerate(ranges)]
        whole = all(first.is_integer() for first, _ in ranges)
        return [(int(first), int(end)) for first, end in ranges] if all(ends) and whole else None

    def at_once(self, model: MagiTransformer3DModel) -> Tensor:
        return model(
            self.x,
            self.t,
            model.encode_text(self.y),
            self.mask,
            has_text=torch.full((self.clips,), self.has_text),
            kv_range=self.kv_range,
            first_chunk=self.first_chunk,
            step_size=None if self.step_size is None else torch.tensor(self.step_size),
        )

    def by_chunk(self, model: MagiTransformer3DModel, cache: Any, store: int = 0) -> Tensor:
        if self.ranges is None:
            raise ValueError(f"{self.kv_range.tolist()} are not ranges of whole chunks that end with the chunk itself")
        return model.evaluate(
            self.x,
            self.t[0],
            [model.encode_text(y[mask]) for y, mask in zip(self.y, self.mask, strict=True)],
            first_chunk=self.first_chunk,
            ranges=self.ranges,
            has_text=self.has_text,
            cache=cache,
            store=store,
            step_size=self.step_size,
        )

    def new_cache(self, model: MagiTransformer3DModel, slots: int) -> Any:
        return model.new_cache(*self.x.shape[-2:], self.chunk_width, slots)


def _compare_forward(
    model: MagiTransformer3DModel, case: dict[str, Any], tensors: dict[str, Tensor], limit: float, metric: Callable[..., Check]
) -> list[Check]:
    """All chunks at once with their intermediate tensors, and one after the other where the ranges allow that."""
    call = _Call(case, tensors, "", case["distill_dt"])
    call.count_from_the_start()
    checks = []
    if call.clips == 1 and call.ranges is not None:
        if min(first for first, _ in call.ranges) < call.first_chunk:
            raise ValueError("a forward without a cache cannot see chunks before its first")
        by_chunk = call.by_chunk(model, call.new_cache(model, call.chunks))
        checks.append(metric("out.v by chunk", by_chunk, tensors["out.v"], limit))
    seen: dict[str, Tensor] = {}
    record(model, seen)
    flags = torch.full((call.clips,), call.has_text)
    step_size = None if call.step_size is None else torch.tensor([call.step_size])
    seen["mid.tokens_in"] = _tokens_first(model.patchify(call.x))
    seen["mid.condition"] = model.condition(call.t, flags[:, None], step_size)
    seen["mid.text_tokens"] = model.y_embedder(call.y[call.mask]).to(model.compute_dtype)
    seen["out.v"] = call.at_once(model)
    expected = [name for name in tensors if not name.startswith("in.")]
    return checks + [metric(name, seen[name], tensors[name], limit) for name in expected]


@torch.no_grad()
def forward(case: dict[str, Any], reference: Reference) -> list[Check]:
    """One evaluation in fp32."""
    model = build(reference, case["model"]).float()
    limit = FP32_LIMIT if case["distill_dt"] is None else DISTILLED_LIMIT
    return _compare_forward(model, case, reference.tensors(case), limit, largest)


@torch.no_grad()
def forward_bf16(case: dict[str, Any], reference: Reference) -> list[Check]:
    """One evaluation in mixed precision: all weights rounded to bfloat16, then some widened again."""
    model = build(reference, case["model"])
    for parameter in model.parameters():
        parameter.data = parameter.data.to(torch.bfloat16)
    model.to_compute_dtype(torch.bfloat16)
    dtypes = {name: str(parameter.dtype).removeprefix("torch.") for name, parameter in model.named_parameters()}
    expected = reference.manifest["bf16_parameter_dtypes"]
    named = exact("parameter dtypes", all(dtypes[name] == dtype for name, dtype in expected.items() if name in dtypes))
    return [named, *_compare_forward(model, case, reference.tensors(case), MIXED_LIMIT, relative_l2)]


@torch.no_grad()
def forward_fp8(case: dict[str, Any], reference: Reference) -> list[Check]:
    """One evaluation in mixed precision, some layers in the static fp8 format."""
    model = build(reference, case["model"]).to_compute_dtype(torch.bfloat16)
    return _compare_forward(model, case, reference.tensors(case), MIXED_LIMIT, relative_l2)


@torch.no_grad()
def cache_chain(case: dict[str, Any], reference: Reference) -> list[Check]:
    """Evaluations that share a cache."""
    model, tensors = build(reference, case["model"]).float(), reference.tensors(case)
    calls = [(facts, _Call(facts, tensors, f"{facts['call']}.", facts.get("distill_dt"))) for facts in case["calls"]]
    slots = max(call.first_chunk + call.chunks for _, call in calls)
    cache = calls[0][1].new_cache(model, slots)
    checks = []
    for facts, call in calls:
        name, kept = facts["call"], facts["chunks_kept_after"]
        store = kept - call.first_chunk if facts["writes_cache"] else 0
        checks.append(largest(f"{name}.out.v", call.by_chunk(model, cache, store), tensors[f"{name}.out.v"], FP32_LIMIT))
        for layer, ours in enumerate(cache.past(0, kept)):
            cached = f"{name}.cache.kv.layer{layer}"
            if cached in tensors:
                checks.append(largest(cached, ours, tensors[cached], FP32_LIMIT))
    return checks


@torch.no_grad()
def rope(case: dict[str, Any], reference: Reference) -> list[Check]:
    """Tables of angles, and queries rotated by them."""
    tensors = reference.tensors(case)
    checks = []
    for item in case["items"]:
        name, head_dim = item["id"], item["head_dim"]
        embed = MagiRotaryPosEmbed(head_dim)
        if item["default_bands"]:
            checks.append(absolute(f"{name}.bands", embed.bands, tensors[f"{name}.bands"], ROTARY_LIMIT))
        embed.bands.copy_(tensors[f"{name}.bands"])
        cosine, sine = embed(token_positions(0, *item["grid"])[tensors[f"{name}.rows"]])
        table = torch.cat([sine, cosine], dim=-1)
        checks.append(absolute(f"{name}.rope", table, tensors[f"{name}.rope"], ROTARY_LIMIT))
        query = tensors[f"{name}.q"]
        rotated = rotate(query, cosine[: query.shape[1]], sine[: query.shape[1]])
        checks.append(absolute(f"{name}.q_rotated", rotated, tensors[f"{name}.q_rotated"], ROTARY_LIMIT))
    return checks


def timesteps(case: dict[str, Any], reference: Reference) -> list[Check]:
    """Sinusoids of times, and of step sizes far above 1."""
    tensors = reference.tensors(case)
    time, theirs, ours = tensors["t"], tensors["embedding"], timestep_embedding(tensors["t"])
    usual = time <= 1
    return [
        absolute("embedding, t <= 1", ours[usual], theirs[usual], 2e-4),
        absolute("embedding, t > 1", ours[~usual], theirs[~usual], 5e-3),
    ]


@torch.no_grad()
def fp8_linear(case: dict[str, Any], reference: Reference) -> list[Check]:
    """Single layers of the static fp8 format, and the codes of their inputs."""
    tensors = reference.tensors(case)
    checks = []
    for item in case["items"]:
        name = item["id"]
        layer = Fp8Linear(item["in_features"], item["out_features"], smoothed=item["kind"] == "smoothed")
        stored = {key: tensors[f"{name}.{key}"] for key in layer.state_dict()}
        layer.load_state_dict(stored, strict=True)
        divisor = stored["input_scale"] if layer.smooth_scale is None else stored["smooth_scale"][0]
        codes = quantize_activation(tensors[f"{name}.x"], divisor)
        same = torch.equal(codes.view(torch.uint8), tensors[f"{name}.x_fp8"].view(torch.uint8))
        checks += [
            exact(f"{name}.x_fp8", same),
            relative_l2(f"{name}.y", layer(tensors[f"{name}.x"]), tensors[f"{name}.y"], FP8_LIMIT),
        ]
    return checks
