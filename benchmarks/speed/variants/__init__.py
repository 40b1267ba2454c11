"""One file for each program. `build(workload, setting)` prepares an outer step on that workload's fixed batch.

A file imports its program at its top, so that what it imports is loaded before memory is measured.
"""

# A variant's name is one of these, or NAME/OPTION; what an option means stands at the top of the file.
MODULES = {
    "ours": "ours",
    "learn2learn": "learn2learn",
    "higher": "higher",
    "torchopt": "torchopt",
    "parallel-metalearn": "parallel_metalearn",
    "torch.func": "torch_func",
    "nn.Module": "plain",
    "qpth": "qpth_svm",
    "jax": "jax_jit",
    "jax-meta": "jaxmeta",
    "sgemm": "sgemm",
}
JAX = ("jax", "jax-meta")


def side(variant: str) -> str:
    """ours | torch | jax | machine: whom a variant races for."""
    kind = variant.partition("/")[0]
    return {"ours": "ours", "sgemm": "machine"}.get(kind, "jax" if kind in JAX else "torch")
