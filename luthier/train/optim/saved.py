"""An optimizer's whole memory as named tensors, and back, bit for bit and without pickle.

Names are `parameter|entry`, with the kind behind what is a plain number: `layers.0.weight|step:int`. Entries of a
helper object are `parameter|projector.ortho_matrix`. What belongs to no parameter has an empty name before the bar.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import safe_open
from torch import Tensor, nn

from luthier.adapters.base import trainable
from luthier.distributed.strategy import local
from luthier.errors import CheckpointError
from luthier.train.optim.wrapped import Wrapped

SHARDING = "DCP_SHARDING_INFO"
"""Under which name torch says in a file where its pieces begin."""
Number = int | float
_KINDS: dict[str, tuple[torch.dtype, Callable[[Any], Number]]] = {
    "bool": (torch.bool, bool),
    "int": (torch.int64, int),
    "float": (torch.float64, float),
}


def optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """All that the optimizer remembers; what is cut stays so.

    Raises:
        CheckpointError: it remembers something that is neither tensor, number, nor an object that holds those.
    """
    names = {parameter: name for name, parameter in trainable(model).items()}
    found = dict(_tensor("", *item) for item in _numbers(optimizer).items())
    for parameter, entries in optimizer.state.items():
        name = names[cast(nn.Parameter, parameter)]
        found.update(_tensor(name, entry, value) for entry, value in _flat(entries))
    seen: set[int] = set()
    for key, tensor in found.items():  # a file holds no tensor twice, and libraries share some (tables of 8-bit values)
        if (place := local(tensor).untyped_storage().data_ptr()) in seen and place:
            found[key] = tensor.clone()
        seen.add(place)
    return found


def load_optimizer(
    optimizer: torch.optim.Optimizer,
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    part: Callable[[Tensor, Tensor], Tensor] = lambda tensor, like: tensor,
) -> None:
    """Put back what `optimizer_tensors` returned; of a `TensorFile`, one tensor after the other is held.

    `part` takes of a whole tensor what is held of a parameter.

    Raises:
        CheckpointError: it belongs to other parameters.
    """
    if isinstance(optimizer, Wrapped):  # first, since it may decide which parameters are trained
        own = (key for key in tensors if key.startswith("|"))
        optimizer.set_numbers(dict(_entry(key.removeprefix("|"), tensors[key]) for key in own))
    parameters = trainable(model)
    # torch keeps the number of steps on the CPU, unless a kernel on the device counts them
    counted = (group for group in optimizer.param_groups if group.get("fused") or group.get("capturable"))
    on_device = {parameter for group in counted for parameter in group["params"]}
    for key in tensors:
        name, _, entry = key.rpartition("|")
        if not name:
            continue
        if name not in parameters:
            raise CheckpointError(f"the checkpoint's optimizer knows {name!r}, which this run does not train")
        parameter = parameters[name]
        if parameter.is_meta:  # another process holds it
            continue
        stays = entry == "step" and parameter not in on_device
        value = tensors[key]
        value = part(value, parameter) if value.shape == parameter.shape else value
        own_copy = value.clone() if stays or value.device == parameter.device else value.to(parameter.device)
        _put(optimizer.state[parameter], *_entry(entry, own_copy))
    if isinstance(optimizer, Wrapped):
        optimizer.loaded()


class TensorFile(Mapping[str, Tensor]):
    """The tensors of a safetensors file by name, each read when it is asked for and held by nobody else.

    Where there is a folder of its name instead, the processes of a run have written their pieces into files there, as
    torch's distributed checkpoints do: each says where in the whole tensor its pieces begin.
    """

    def __init__(self, path: Path) -> None:
        self._pieces: dict[str, list[tuple[Path, tuple[int, ...]]]] = {}
        """Files, and where in the whole their piece begins; empty for a whole tensor."""
        for file in [path] if path.is_file() else sorted(path.with_suffix("").glob("*.safetensors")):
            with self._open(file) as opened:
                cut = json.loads((opened.metadata() or {}).get(SHARDING, "{}"))
                for name in opened.keys():  # noqa: SIM118 - not a mapping
                    begins = tuple(cut[name]["saved_offsets"]) if name in cut else ()
                    self._pieces.setdefault(name, []).append((file, begins))

    @staticmethod
    def _open(file: Path) -> AbstractContextManager[Any]:
        return safe_open(file, framework="pt")

    def __getitem__(self, name: str) -> Tensor:
        found = []
        for file, begins in self._pieces[name]:
            with self._open(file) as opened:
                found.append((begins, opened.get_tensor(name)))
        first: Tensor = found[0][1]
        if len(found) == 1:
            return first
        ends = zip(*(map(sum, zip(begins, piece.shape, strict=True)) for begins, piece in found), strict=True)
        whole = torch.empty([max(axis) for axis in ends], dtype=first.dtype)
        for begins, piece in found:
            whole[tuple(slice(b, b + n) for b, n in zip(begins, piece.shape, strict=True))] = piece
        return whole

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._pieces))

    def __len__(self) -> int:
        return len(self._pieces)


def _numbers(optimizer: torch.optim.Optimizer) -> dict[str, Tensor | Number]:
    return optimizer.numbers() if isinstance(optimizer, Wrapped) else {}


def _flat(entries: Mapping[str, Any]) -> Iterator[tuple[str, Tensor | Number]]:
    """Tensors and numbers as they are, of an object its own."""
    for entry, value in entries.items():
        if isinstance(value, Tensor | Number):
            yield entry, value
        elif type(value).__module__ == "builtins":
            raise CheckpointError(
                f"the optimizer keeps {entry!r} as a {type(value).__name__}; no checkpoint holds that"
            )
        else:
            held = ((f"{entry}.{name}", inner) for name, inner in vars(value).items())
            yield from ((name, inner) for name, inner in held if isinstance(inner, Tensor | Number))


def _put(entries: dict[str, Any], entry: str, value: Tensor | Number) -> None:
    holder, _, attribute = entry.rpartition(".")
    if holder:
        setattr(entries[holder], attribute, value)
    else:
        entries[entry] = value


def _tensor(name: str, entry: str, value: Tensor | Number) -> tuple[str, Tensor]:
    """Name and tensor under which an entry is saved.

    A matrix that lies in memory in another way (libraries cut it out of a larger one) says so: on some CPUs products
    with it are rounded in another way.
    """
    if isinstance(value, Tensor):
        cut = not value.is_contiguous() and 0 not in value.stride()
        layout = ":" + "x".join(map(str, value.stride())) if cut else ""
        return f"{name}|{entry}{layout}", value.detach().contiguous()
    kind = "bool" if isinstance(value, bool) else "int" if isinstance(value, int) else "float"
    return f"{name}|{entry}:{kind}", torch.tensor(value, dtype=_KINDS[kind][0])


def _entry(entry: str, tensor: Tensor) -> tuple[str, Tensor | Number]:
    """The reverse of `_tensor`."""
    name, colon, kind = entry.partition(":")
    if not colon:
        return entry, tensor
    if kind in _KINDS:
        return name, _KINDS[kind][1](tensor.item())
    strides = tuple(map(int, kind.split("x")))
    return name, torch.empty_strided(tensor.shape, strides, dtype=tensor.dtype, device=tensor.device).copy_(tensor)
