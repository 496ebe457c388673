"""The two graphs that MAGI-1's transformer is exported as, and the names of what goes in and out.

`chunk` is one chunk's forward (`MagiTransformer3DModel.forward_chunk`); it is described by the manifest's `inputs`, `outputs`
and `profiles`. `text` gives a text's keys and values for all layers, once per text (`encode_text`).

    chunk: hidden_states [1,C,6,h,w] fp32, timestep [1] fp32, has_text [1] bool, positions [S,3] fp32,
           text_kv [L,n,G,2d], past_kv_0 .. past_kv_{L-1} [P,G,2d] each, and step_size [1] fp32 if distilled
           -> velocity [1,C,6,h,w] fp32, present_kv_0 .. present_kv_{L-1} [S,G,2d] each
    text:  encoder_hidden_states [n,caption_channels] fp32 -> text_kv [L,n,G,2d]

S tokens a chunk, P tokens of the chunks before it (0 to 4 chunks), n kept tokens of the text. Keys and values have one dtype,
that of `text_kv` in the manifest.
"""

HIDDEN_STATES, TIMESTEP, HAS_TEXT, POSITIONS, STEP_SIZE = "hidden_states", "timestep", "has_text", "positions", "step_size"
VELOCITY, TEXT_KV, ENCODER_HIDDEN_STATES = "velocity", "text_kv", "encoder_hidden_states"

# File names in the artifact, by runtime.
CHUNK_ONNX, TEXT_ONNX = "model.onnx", "text.onnx"
CHUNK_PLAN, TEXT_PLAN = "engine.plan", "text.plan"


def past_input(layer: int) -> str:
    """What the chunk graph calls the keys and values before the chunk."""
    return f"past_kv_{layer}"


def present_output(layer: int) -> str:
    """What the chunk graph calls the chunk's own."""
    return f"present_kv_{layer}"
