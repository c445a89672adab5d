"""Name the versions that results depend on."""

import importlib.metadata
import platform

_PACKAGES = (
    "clipscratch", "torch", "transformers", "datasets", "accelerate", "evaluate", "safetensors", "numpy", "pillow",
    "scikit-learn", "matplotlib", "onnx", "onnxruntime",
)  # fmt: skip


def versions() -> dict[str, str]:
    """Return {name: version} of Python and of those packages that are installed."""
    installed = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed
