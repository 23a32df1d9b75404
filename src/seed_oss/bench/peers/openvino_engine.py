"""OpenVINO on a graph of its own operations, built here from exactly our integers, scales and zero points.

A stateful decoder as its converters make it: compressed constants in front of each product, keys and values as state,
its attention operation. Hints as for its chat pipelines: latency, one stream.
"""

import json
import time
from importlib import import_module
from pathlib import Path
from typing import Any

from seed_oss.bench.peers.serving import serve

NUMPY_DTYPES = {"f32": "float32", "f16": "float16", "u8": "uint8", "u4": "uint8"}


class OpenVino:
    """See serving.Engine."""

    def __init__(self) -> None:
        self._graph: DecoderGraph | None = None
        self._request: Any = None

    def import_all(self) -> None:
        """See serving.Engine."""
        import_module("openvino")

    def load(self, what: dict[str, Any]) -> dict[str, Any]:
        """`what`: `file` of export.write_arrays, `threads` to compile for, `precision` of activations,
        `embedding_bytes` of an embedding that is not the head."""
        self._graph = DecoderGraph(Path(what["file"]))  # the constants point into it
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",
            "INFERENCE_NUM_THREADS": what["threads"],
            "INFERENCE_PRECISION_HINT": what["precision"],
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": "32",
        }
        self._request = (
            import_module("openvino").Core().compile_model(self._graph.model(), "CPU", settings).create_infer_request()
        )
        return {"weight_bytes": Path(what["file"]).stat().st_size - what["embedding_bytes"]}

    def run(self, prompt_ids: list[int], new_tokens: int, threads: int) -> tuple[float, float, list[int]]:
        """See serving.Engine; the number of threads is what it was compiled for."""
        request = self._request
        request.reset_state()
        start = time.perf_counter()
        new = [_step(request, prompt_ids, 0)]
        first = time.perf_counter()
        while len(new) < new_tokens:
            new.append(_step(request, new[-1:], len(prompt_ids) + len(new) - 1))
        return first - start, time.perf_counter() - first, new

    def encode(self, question: str) -> list[int] | None:
        """It is given ids."""
        return None


def _step(request: Any, ids: list[int], past: int) -> int:
    """The likeliest token after these."""
    import numpy as np

    length = len(ids)
    above = np.triu(np.full((length, length), np.finfo(np.float32).min, np.float32), 1)
    mask = np.concatenate((np.zeros((length, past), np.float32), above), 1)[None, None]
    inputs = {
        "input_ids": np.array([ids], np.int64),
        "position_ids": np.arange(past, past + length, dtype=np.int64)[None],
        "attention_mask": mask,
        "beam_idx": np.zeros(1, np.int32),
    }
    request.infer(inputs, share_inputs=True)
    return int(request.get_tensor("logits").data[0, -1].argmax())


class DecoderGraph:
    """The decoder in OpenVINO's operations.

    Args:
        path: of export.write_arrays.
    """

    def __init__(self, path: Path) -> None:
        import numpy as np

        self.np = np
        self.ov: Any = import_module("openvino")
        self.ops: Any = import_module("openvino.opset13")
        self.index = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        self.config = self.index["config"]
        self.bytes = np.memmap(path, mode="r")
        self.assigns: list[Any] = []
        self.kept: list[Any] = []

    def model(self) -> Any:
        """Inputs `input_ids`, `position_ids`, `attention_mask` (added to scores), `beam_idx`; output `logits`."""
        ops, dynamic = self.ops, self.ov.PartialShape
        ids = ops.parameter(dynamic([-1, -1]), self.ov.Type.i64, name="input_ids")
        positions = ops.parameter(dynamic([-1, -1]), self.ov.Type.i64, name="position_ids")
        mask = ops.parameter(dynamic([-1, 1, -1, -1]), self.ov.Type.f32, name="attention_mask")
        beam = ops.parameter(dynamic([-1]), self.ov.Type.i32, name="beam_idx")
        inputs = [ids, positions, mask, beam]
        for one in inputs:
            one.output(0).get_tensor().set_names({one.friendly_name})
        x = self._embedding(ids)
        cos, sin = self._rotary(positions)
        for layer in range(self.config["num_hidden_layers"]):
            x = self._layer(f"model.layers.{layer}", layer, x, cos, sin, mask, beam)
        last = ops.gather(self._norm("model.norm", x), self._i64([-1]), self._i64(1))
        logits = self._product("lm_head" if "lm_head.q" in self.index else "model.embed_tokens", last)
        logits.output(0).get_tensor().set_names({"logits"})
        return self.ov.Model([ops.result(logits)], self.assigns, inputs, "seed_oss")

    def _i64(self, value: Any) -> Any:
        return self.ops.constant(self.np.array(value, self.np.int64))

    def _constant(self, name: str) -> Any:
        """A constant over the file's bytes."""
        dtype, shape, start = self.index[name]
        count = 1
        for size in shape:
            count *= size
        if dtype == "u4":
            data = self.np.array(self.bytes[start : start + (count + 1) // 2])
            self.kept.append(data)  # the constant points to it
            return self.ov.op.Constant(self.ov.Tensor(data, self.ov.Shape(shape), self.ov.Type.u4))
        itemsize = self.np.dtype(NUMPY_DTYPES[dtype]).itemsize
        data = self.bytes[start : start + count * itemsize].view(NUMPY_DTYPES[dtype]).reshape(shape)
        return self.ops.constant(self.np.array(data))

    def _weight(self, module: str) -> Any:
        """The numbers of a weight `[rows, columns]`, as the compressed constant that the plugin looks for."""
        ops = self.ops
        q = ops.convert(self._constant(f"{module}.q"), "f16")
        zero = ops.convert(self._constant(f"{module}.zero"), "f16")
        numbers = ops.multiply(ops.subtract(q, zero), self._constant(f"{module}.scale"))
        rows, groups, size = self.index[f"{module}.q"][1]
        return ops.convert(ops.reshape(numbers, self._i64([rows, groups * size]), False), "f32")

    def _product(self, module: str, x: Any) -> Any:
        y = self.ops.matmul(x, self._weight(module), False, True)
        if f"{module}.bias" not in self.index:
            return y
        return self.ops.add(y, self.ops.unsqueeze(self._constant(f"{module}.bias"), self._i64([0, 1])))

    def _embedding(self, ids: Any) -> Any:
        return self.ops.gather(self._weight("model.embed_tokens"), ids, self._i64(0))

    def _norm(self, module: str, x: Any) -> Any:
        ops, np = self.ops, self.np
        square = ops.power(x, ops.constant(np.array([[[2.0]]], np.float32)))
        mean = ops.reduce_mean(square, self._i64([-1]), True)
        root = ops.sqrt(ops.add(mean, ops.constant(np.array([[[self.config["rms_norm_eps"]]]], np.float32))))
        return ops.multiply(
            ops.unsqueeze(self._constant(f"{module}.weight"), self._i64([0, 1])),
            ops.multiply(x, ops.divide(ops.constant(np.array([[[1.0]]], np.float32)), root)),
        )

    def _rotary(self, positions: Any) -> tuple[Any, Any]:
        """Cosines and sines `[batch, 1, length, head_dim]`."""
        np, ops, dim = self.np, self.ops, self.config["head_dim"]
        inverse = self.config["rope_theta"] ** (-np.arange(0, dim, 2, dtype=np.float64) / dim)
        frequencies = ops.constant(inverse.astype(np.float32)[None, None])
        angles = ops.multiply(ops.unsqueeze(ops.convert(positions, "f32"), self._i64(-1)), frequencies)
        both = ops.concat([angles, angles], -1)
        axis = self._i64(1)
        return ops.unsqueeze(ops.cos(both), axis), ops.unsqueeze(ops.sin(both), axis)

    def _rotated(self, x: Any, cos: Any, sin: Any) -> Any:
        ops, half = self.ops, self.config["head_dim"] // 2
        low = ops.slice(x, self._i64([0]), self._i64([half]), self._i64([1]), self._i64([3]))
        high = ops.slice(x, self._i64([half]), self._i64([2 * half]), self._i64([1]), self._i64([3]))
        minus = ops.multiply(high, ops.constant(self.np.array([[[[-1.0]]]], self.np.float32)))
        return ops.add(ops.multiply(x, cos), ops.multiply(ops.concat([minus, low], -1), sin))

    def _heads(self, module: str, x: Any, num_heads: int) -> Any:
        split = self.ops.reshape(self._product(module, x), self._i64([0, 0, num_heads, self.config["head_dim"]]), True)
        return self.ops.transpose(split, self._i64([0, 2, 1, 3]))

    def _state(self, name: str, new: Any, beam: Any) -> Any:
        """Keys or values of all tokens so far, kept in a variable."""
        ops, heads, dim = self.ops, self.config["num_key_value_heads"], self.config["head_dim"]
        info = self.ov.op.util.VariableInfo()
        info.data_shape, info.data_type = self.ov.PartialShape([-1, heads, -1, dim]), self.ov.Type.f32
        info.variable_id = name
        variable = self.ov.op.util.Variable(info)
        batch = ops.gather(ops.shape_of(beam, "i64"), self._i64([0]), self._i64(0))
        shape = ops.concat([batch, self._i64([heads, 0, dim])], 0)
        empty = ops.broadcast(ops.constant(self.np.array(0, self.np.float32)), shape)
        past = ops.gather(ops.read_value(empty, variable), beam, self._i64(0))
        whole = ops.concat([past, new], 2)
        self.assigns.append(ops.assign(whole, variable))
        return whole

    def _repeated(self, x: Any) -> Any:
        """Each key/value head for the query heads that share it."""
        ops, heads, dim = self.ops, self.config["num_key_value_heads"], self.config["head_dim"]
        each = self.config["num_attention_heads"] // heads
        if each == 1:
            return x
        spread = ops.unsqueeze(x, self._i64(2))
        length = ops.gather(ops.shape_of(x, "i64"), self._i64([2]), self._i64(0))
        batch = ops.gather(ops.shape_of(x, "i64"), self._i64([0]), self._i64(0))
        target = ops.concat([batch, self._i64([heads, each]), length, self._i64([dim])], 0)
        return ops.reshape(
            ops.broadcast(spread, target, broadcast_spec="BIDIRECTIONAL"), self._i64([0, heads * each, -1, dim]), True
        )

    def _layer(self, name: str, index: int, x: Any, cos: Any, sin: Any, mask: Any, beam: Any) -> Any:
        ops, config = self.ops, self.config
        heads, kv_heads, dim = config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"]
        normed = self._norm(f"{name}.input_layernorm", x)
        q = self._rotated(self._heads(f"{name}.self_attn.q_proj", normed, heads), cos, sin)
        k = self._rotated(self._heads(f"{name}.self_attn.k_proj", normed, kv_heads), cos, sin)
        v = self._heads(f"{name}.self_attn.v_proj", normed, kv_heads)
        keys = self._repeated(self._state(f"past_key_values.{index}.key", k, beam))
        values = self._repeated(self._state(f"past_key_values.{index}.value", v, beam))
        attended = ops.transpose(ops.scaled_dot_product_attention(q, keys, values, mask), self._i64([0, 2, 1, 3]))
        flat = ops.reshape(attended, self._i64([0, 0, heads * dim]), True)
        x = ops.add(x, self._product(f"{name}.self_attn.o_proj", flat))
        normed = self._norm(f"{name}.post_attention_layernorm", x)
        gate, up = (self._product(f"{name}.mlp.{part}_proj", normed) for part in ("gate", "up"))
        return ops.add(x, self._product(f"{name}.mlp.down_proj", ops.multiply(ops.swish(gate), up)))


if __name__ == "__main__":
    serve(OpenVino())
