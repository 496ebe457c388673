"""Looking inside a graph on ONNX Runtime: what goes into each quantized layer and what comes out."""

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

from export.graph.writing import MAIN, GraphFiles
from export.run.stages import place
from videosdgx.engines.onnxruntime_engine import session_options


class LayerProbe:
    """A graph of a directory, with the input and the output of those quantized layers that it has as further outputs."""

    def __init__(self, directory: Path, layers: Iterable[str], files: GraphFiles = MAIN) -> None:
        """`layers` are all quantized layers by name: those of other graphs are passed over."""
        model = onnx.load(directory / files.model, load_external_data=False)
        # Quantizing comes before dequantizing, and both have the scale: the first is wanted.
        into = {node.input[1]: node.input[0] for node in reversed(model.graph.node) if len(node.input) > 1}
        # Of a layer that is used twice (the feed-forward layers, on each half of the tokens), its first use both times.
        users = {name: node for node in reversed(model.graph.node) for name in node.input}
        scales = {layer: f"{layer}.input_scale" for layer in layers}
        self._names = {layer: (into[scale], _output(layer, users)) for layer, scale in scales.items() if scale in into}
        for name in sorted({name for pair in self._names.values() for name in pair}):
            model.graph.output.add(name=name)
        with tempfile.TemporaryDirectory(dir=directory.parent) as scratch:
            place(directory / files.data, Path(scratch) / files.data)
            path = Path(scratch) / files.model
            path.write_bytes(model.SerializeToString())
            self._session = ort.InferenceSession(path, session_options(0), providers=["CPUExecutionProvider"])

    def run(self, inputs: Mapping[str, np.ndarray]) -> tuple[np.ndarray, dict[str, tuple[np.ndarray, np.ndarray]]]:
        """The graph's own output, and (input, output) of each layer by its name."""
        names = [output.name for output in self._session.get_outputs()]
        values = dict(zip(names, self._session.run(names, dict(inputs)), strict=True))
        return values[names[0]], {layer: (values[x], values[y]) for layer, (x, y) in self._names.items()}


def _output(layer: str, users: Mapping[str, onnx.NodeProto]) -> str:
    """What comes out of a linear layer: of the sum with its bias, or without one of the product with its weight."""
    bias = users.get(f"{layer}.bias")
    if bias is not None:
        return bias.output[0]
    name = f"{layer}.weight"
    while users[name].op_type not in ("MatMul", "Gemm"):
        name = users[name].output[0]
    return users[name].output[0]
