"""Write golden/: what transformers 4.27.2 computes for every class and argument of its XLM-RoBERTa-XL page.

    python tests/reference/make_golden.py                    # installs the reference in a temporary environment
    python tests/reference/make_golden.py --environment DIR  # keeps the environment, or reuses an existing one
    python tests/reference/make_golden.py --python PYTHON    # an interpreter with the packages installed

That release needs Python 3.11 or older. Each folder of golden/ is one checkpoint, tiny and in float64, as the reference
saves it, with

    cases.safetensors  the tensors of all its cases, equal ones once
    cases.json         the cases: "name"; "class"; "load", parameters of from_pretrained; "tensors" and "values", the
                       arguments of the call; "tuple", whether it returned one; and "outputs", the fields in their order

where a tensor is the key of one in cases.safetensors, a tuple a list. Beside them lie the parameters that the
documentation shows (signatures.json) and the configuration of XLM-RoBERTa-XL (config.json).

Left out, because the reference crashes there:
- labels of token classification with a mask of three dimensions (it is read as one flag for each token);
- attentions of a model with cross-attention but without states to look at, where cross_attentions holds the cache;
- integer labels with problem_type="multi_label_classification";
or because its numbers are accidents:
- the order of the fields of the base model as a decoder, which is not that of its tuple: the tuple's counts;
- labels on padding, which the masked language model's loss counts while that of token classification does not;
- several new tokens after a cache with relative positions: all are given the distances of the last one;
- return_dict=False of a masked language model that is a decoder: the tuple holds a cache that the named fields do not;
- the pooler and the classification head on a text padded on the left: they read the state of a pad.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

import torch
from golden_cases import CHECKPOINTS, SHAPE
from safetensors.torch import save_file
from torch import Tensor

VERSION = "4.27.2"
REQUIREMENTS = ["torch==2.13.0", "numpy<2", f"transformers=={VERSION}", "safetensors"]
GOLDEN = Path(__file__).with_name("golden")

# -- Cases -----------------------------------------------------------------------------------------------------------


class Golden:
    """One checkpoint: a model of the reference, saved and loaded again, and its outputs."""

    def __init__(self, folder: Path, class_name: str, config: dict[str, Any]) -> None:
        self.folder = folder
        self.cases: list[dict[str, Any]] = []
        self.tensors: dict[str, Tensor] = {}
        self.keys: dict[tuple, str] = {}
        torch.manual_seed(0)
        model = reference(class_name)(reference("Config")(**{**SHAPE, **config})).double()
        with torch.no_grad():
            for parameter in model.parameters():  # no zeros or ones
                parameter.add_(0.2 * torch.randn_like(parameter))
        model.save_pretrained(self.folder, safe_serialization=True)

    def add(self, class_name: str, name: str, call: dict[str, Any], **load: Any) -> Any:
        """Make a call, store it, and return its output."""
        cls = reference(class_name)
        model = cls.from_pretrained(self.folder, torch_dtype=torch.float64, **load).eval()
        with torch.no_grad():
            output = model(**call)
            fields = list(output.keys()) if not isinstance(output, tuple) else self.fields_of(model, call, output)
        values = {k: v for k, v in call.items() if isinstance(v, bool)}
        self.cases.append(
            {
                "name": name,
                "class": cls.__name__,
                "load": load,
                "tensors": {k: self.keep(v) for k, v in call.items() if k not in values},
                "values": values,
                "tuple": isinstance(output, tuple),
                "outputs": [[k, self.keep(output[i])] for i, k in enumerate(fields)],
            }
        )
        return output

    def add_all(self, class_name: str, calls: dict[str, dict[str, Any]], **load: Any) -> None:
        for name, call in calls.items():
            self.add(class_name, name, call, **load)

    def fields_of(self, model: torch.nn.Module, call: dict[str, Any], output: tuple) -> list[str]:
        """Name the entries of a tuple by their content, because a decoder returns them in another order."""
        names = {json.dumps(self.keep(value)): name for name, value in model(**{**call, "return_dict": True}).items()}
        return [names.get(json.dumps(self.keep(value)), "pooler_output") for value in output]

    def keep(self, value: Any) -> Any:
        """Store a tensor and return its key; for a tuple, a list of keys."""
        if value is None:
            return None
        if isinstance(value, tuple):
            return [self.keep(v) for v in value]
        assert value.isfinite().all()
        content = (value.dtype, tuple(value.shape), value.contiguous().numpy().tobytes())
        key = self.keys.setdefault(content, f"{len(self.keys):03d}")
        self.tensors[key] = value.contiguous().clone()
        return key

    def write(self) -> None:
        save_file(self.tensors, self.folder / "cases.safetensors")
        lines = ",\n".join(json.dumps(case) for case in self.cases)
        (self.folder / "cases.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def reference(name: str) -> type:
    import transformers

    return getattr(transformers, "XLMRobertaXL" + name)


# -- Script ----------------------------------------------------------------------------------------------------------


def documentation() -> dict[str, dict[str, Any]]:
    """Return the parameters of the configuration with their defaults, and those of each forward pass."""
    names = sorted({"Model", *(class_name for class_name, _, _ in CHECKPOINTS.values())})
    functions = {"XLMRobertaXLConfig": reference("Config").__init__}
    functions |= {"XLMRobertaXL" + name: reference(name).forward for name in names}
    return {
        name: {
            p.name: p.default
            for p in inspect.signature(function).parameters.values()
            if p.name != "self" and p.kind is not p.VAR_KEYWORD
        }
        for name, function in functions.items()
    }


def write_golden(folder: Path) -> None:
    """Write all of golden/ with the installed transformers."""
    import transformers

    if transformers.__version__ != VERSION:
        raise SystemExit(f"golden/ comes from transformers {VERSION}; this is {transformers.__version__}.")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    shutil.rmtree(folder, ignore_errors=True)
    for name, (class_name, config, add_cases) in CHECKPOINTS.items():
        golden = Golden(folder / name, class_name, config)
        add_cases(golden)
        golden.write()
        print(f"{name}: {len(golden.cases)} cases, {len(golden.tensors)} tensors")
    for name, content in (("config", reference("Config")().to_dict()), ("signatures", documentation())):
        (folder / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{folder}: {size / 1e6:.2f} MB")


def run_inside(python: str | Path, folder: Path) -> None:
    """Run this script with another interpreter, without network."""
    command = [str(python), str(Path(__file__).resolve()), "--here", "--output", str(folder.resolve())]
    subprocess.run(command, check=True, env={**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"})


def run_in_environment(environment: Path, folder: Path) -> None:
    """Install the reference in an environment, if it is not there yet, and run this script in it."""
    python = environment / ("Scripts" if os.name == "nt" else "bin") / "python"
    if not python.exists():
        venv.create(environment, with_pip=True)
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", *REQUIREMENTS], check=True)
    run_inside(python, folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--environment", type=Path, help="folder of a virtual environment, made if it is absent")
    where.add_argument("--python", help="interpreter that has the packages: " + ", ".join(REQUIREMENTS))
    where.add_argument("--here", action="store_true", help="use this interpreter")
    parser.add_argument("--output", type=Path, default=GOLDEN)
    given = parser.parse_args()
    if given.here:
        write_golden(given.output)
    elif given.python:
        run_inside(given.python, given.output)
    elif given.environment:
        run_in_environment(given.environment, given.output)
    else:
        if sys.version_info >= (3, 12):
            raise SystemExit(f"transformers {VERSION} needs Python 3.11 or older; this is {sys.version.split()[0]}.")
        with tempfile.TemporaryDirectory() as environment:
            run_in_environment(Path(environment), given.output)


if __name__ == "__main__":
    main()
