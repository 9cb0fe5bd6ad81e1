"""The exported model itself, run by onnxruntime with a growing float cache: the reference of every comparison."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime

from tqc.errors import SessionError

DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


class OnnxSession:
    """Sequences of one length through an ONNX decoder with past_key_values.N.key/value inputs and present.N.* outputs.

    Of a batch of one, ids may be flat, and logits are those of its sequence.

    The cache stays inside onnxruntime: each step's present values are bound as the next step's past without a copy
    through Python (IO binding). What onnxruntime itself copies, joining past and new token, is part of such a graph.
    """

    def __init__(self, path: str | Path | OnnxSession, *, threads: int = 0, batch: int = 1) -> None:
        """`path` is the file, or another session whose loaded model this one shares, with a cache of its own."""
        self.batch = batch
        if isinstance(path, OnnxSession):
            self._model = path._model
        else:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = threads
            self._model = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._inputs = {item.name: item for item in self._model.get_inputs()}
        self._pasts = [name for name in self._inputs if name.startswith("past_key_values.")]
        if not self._pasts:
            raise SessionError("the ONNX model has no cache inputs", where=str(path), expected="past_key_values.N.key")
        self.reset()

    def reset(self) -> None:
        """Empties the cache."""
        self.length = 0
        self._past = {}
        for name in self._pasts:
            _, heads, _, head_dim = self._inputs[name].shape
            empty = np.zeros((self.batch, heads, 0, head_dim), DTYPES[self._inputs[name].type])
            self._past[name] = onnxruntime.OrtValue.ortvalue_from_numpy(empty)

    def prefill(self, ids: Sequence[int] | Sequence[Sequence[int]], *, all_logits: bool = False) -> np.ndarray:
        """Appends as many tokens to every sequence, ids [batch, S]; float logits (S, vocab) with `all_logits`, else
        (1, vocab) of the last one; of more than one sequence (batch, S, vocab) and (batch, vocab)."""
        rows = np.asarray(ids, np.int64).reshape(self.batch, -1)
        total = self.length + rows.shape[1]
        given = {
            "input_ids": rows,
            "attention_mask": np.ones((self.batch, total), np.int64),
            "position_ids": np.tile(np.arange(self.length, total, dtype=np.int64), (self.batch, 1)),
        }
        binding = self._model.io_binding()
        for name, value in given.items():
            if name in self._inputs:
                binding.bind_cpu_input(name, value)
        for name, value in self._past.items():
            binding.bind_ortvalue_input(name, value)
        binding.bind_output("logits", "cpu")
        for name in self._pasts:
            binding.bind_output(name.replace("past_key_values", "present"), "cpu")
        self._model.run_with_iobinding(binding)
        logits, *present = binding.get_outputs()
        self._past = dict(zip(self._pasts, present, strict=True))
        self.length = total
        if not all_logits:
            return logits.numpy()[:, -1]
        return logits.numpy()[0] if self.batch == 1 else logits.numpy()

    def decode(self, ids: Sequence[int]) -> np.ndarray:
        """Appends one token to every sequence; logits (batch, vocab)."""
        return self.prefill(ids)

    @property
    def kv_bytes(self) -> int:
        """Bytes of the cache as it is now."""
        return sum(value.tensor_size_in_bytes() for value in self._past.values())
