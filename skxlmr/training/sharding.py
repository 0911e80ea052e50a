"""Training with the parameters in shards, one part in each process, by FSDP2 of torch.

Layers and the word embedding are sharded, trained and frozen ones; a layer is gathered while it is run. The rest, such
as adapters, heads and LayerNorms outside of the layers, is small, and whole in each process.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, Shard

from skxlmr.model import XLMRobertaXLModel
from skxlmr.model.lm_head import LMHead
from skxlmr.runtime.backbone import Backbone
from skxlmr.runtime.finetuned import Finetuned
from skxlmr.training.ranks import GroupRanks, Ranks


@dataclass(eq=False)
class ShardedBackbone(Backbone):
    """A base model in shards; one thread runs it, since all processes must gather the same layers in the same order."""

    def on_each(self, compute: Callable[[Backbone, Any], Tensor]) -> dict[torch.device, Callable[[Any], Tensor]]:
        """Return what computes with it; outside of inference mode, since training gathers into the same tensors."""

        def run(batch: Any) -> Tensor:
            with torch.inference_mode(False), torch.no_grad():
                return compute(self, batch)

        return {self.model.device: run}


class ShardedRanks(GroupRanks):
    """Processes that train one model together, of whose large parameters each has a shard.

    Parameters
    ----------
    ranks : Ranks
        The same processes.
    finetuned : Finetuned
        What is trained; it is sharded here, until `gather_weights`.
    backbone : Backbone
        Stays whole; what is sharded is a copy, and on a GPU the original waits in the memory of the host.
    """

    is_sharded = True

    def __init__(self, ranks: Ranks, finetuned: Finetuned, backbone: Backbone) -> None:
        super().__init__(ranks.device)
        self.finetuned = finetuned
        self._device = next(finetuned.parameters()).device
        self._mesh = init_device_mesh(self._device.type, (self.size,))
        # Caches of torch keep the mesh until the interpreter ends. They must not keep the group, see `leave_group`; the
        # mesh finds it by its name, and only torch.compile reads this.
        getattr(self._mesh, "_pg_registry", {}).clear()
        self._plain: list[tuple[nn.Module, str, nn.Module]] = []  # where modules without shards belong
        self._originals: list[nn.Module] = []
        words = finetuned.num_frozen == 0 and not isinstance(finetuned.head, LMHead)
        self.backbone = ShardedBackbone(**{**vars(backbone), "copies": ()})
        self.backbone.model = self._shard_base(backbone.model, finetuned.num_frozen, words)
        if finetuned.own is not None:
            self._shard_own(finetuned.own, words)
        self.parameters: dict[str, nn.Parameter] = {}  # that are trained: the shards of this process
        self._whole: dict[nn.Parameter, DTensor] = {}  # by shard
        for name, parameter in finetuned.named_parameters():
            if parameter.requires_grad:
                shard = parameter
                if isinstance(parameter, DTensor):
                    shard = nn.Parameter(parameter.to_local())  # the same storage
                    self._whole[shard] = parameter
                self.parameters[name] = shard

    def _shard_base(self, base: XLMRobertaXLModel, start: int, words: bool) -> XLMRobertaXLModel:
        model = copy.copy(base)
        layers = [*base.layers[:start], *(self._shard_copy(layer) for layer in base.layers[start:])]
        model._modules = {**base._modules, "layers": nn.ModuleList(layers)}
        if words:
            embeddings = copy.copy(base.embeddings)
            embeddings._modules = {**base.embeddings._modules, "word": self._shard_copy(base.embeddings.word)}
            model._modules["embeddings"] = embeddings
        return model

    def _shard_copy(self, module: nn.Module) -> nn.Module:
        copied = copy.deepcopy(module, {id(p): p for p in [*module.parameters(), *module.buffers()]})
        self._shard(copied)
        self._originals.append(module.cpu())
        return copied

    def _shard_own(self, own: nn.ModuleDict, words: bool) -> None:
        layers = own["layers"]
        assert isinstance(layers, nn.ModuleList)
        places: list[tuple[nn.Module, str]] = [(layers, name) for name in layers._modules]
        if words and "embeddings" in own:
            places.append((own["embeddings"], "word"))
        for parent, name in places:
            module = parent._modules[name]
            assert module is not None
            meta = {id(p): nn.Parameter(p.detach().to("meta"), p.requires_grad) for p in module.parameters()}
            self._plain.append((parent, name, copy.deepcopy(module, meta)))
            self._shard(module)

    def _shard(self, module: nn.Module) -> None:
        sharded = fully_shard(module, mesh=self._mesh, reshard_after_forward=True)
        assert isinstance(sharded, FSDPModule)
        sharded.set_gradient_divide_factor(1.0)  # sums, not means
        sharded.set_force_sum_reduction_for_comms(True)

    def trained(self, module: nn.Module) -> dict[str, nn.Parameter]:
        return self.parameters

    def whole_alike(self, parameter: nn.Parameter) -> bool:
        return parameter not in self._whole

    @contextmanager
    def together(self) -> Iterator[None]:
        yield  # a process whose memory runs out ends, since the others wait for its layers

    def padding(self, n_tokens: Sequence[int]) -> int:
        """Return how many more micro-batches another process runs than this one at most, see `share`."""
        counts = [len(self._share_of(rank, n_tokens)) for rank in range(self.size)]
        return max(counts) - counts[self.rank]

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        for shard, whole in self._whole.items():
            if whole.grad is not None:
                assert isinstance(whole.grad, DTensor)
                shard.grad, whole.grad = whole.grad.to_local(), None
        super().sum_gradients([parameter for parameter in parameters if parameter not in self._whole])

    def norm(self, parameters: Sequence[nn.Parameter]) -> Tensor:
        """Return the norm of the gradients of all processes."""
        squares = torch.zeros(2, device=self._device)  # of shards, and of what is whole
        for parameter in parameters:
            if parameter.grad is not None:
                squares[int(parameter not in self._whole)] += parameter.grad.square().sum()
        dist.all_reduce(squares[:1])
        return squares.sum().sqrt()

    def whole(self, parameter: nn.Parameter, tensor: Tensor) -> Tensor:
        """Return the whole of a parameter, or of a tensor that belongs to it, on the CPU of rank 0.

        All processes call this; the others get back what they have.
        """
        like = self._whole.get(parameter)
        if like is None or tensor.shape != parameter.shape:
            return tensor
        whole = self._gathered(tensor, like)
        return whole.cpu() if self.is_first else tensor

    def _gathered(self, shard: Tensor, like: DTensor) -> Tensor:
        placed = DTensor.from_local(shard, self._mesh, [Shard(0)], shape=like.shape, stride=like.stride())
        return placed.full_tensor()

    def part(self, parameter: nn.Parameter, tensor: Tensor) -> Tensor:
        """Return the shard that this process has of a whole tensor."""
        like = self._whole.get(parameter)
        if like is None or tensor.shape != like.shape:
            return tensor
        parts = tensor.chunk(self.size)
        return parts[self.rank] if self.rank < len(parts) else tensor[:0]

    def like(self, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
        """Return parameters with the shapes of whole ones."""
        return {name: self._whole.get(parameter, parameter) for name, parameter in parameters.items()}

    def gather_weights(self) -> None:
        """End sharding: what is trained is whole on the CPU of rank 0, without values elsewhere."""
        own = {}
        for name, parameter in self.finetuned.named_parameters():
            if isinstance(parameter, DTensor):
                whole = parameter.full_tensor().detach()
                own[name] = whole.cpu() if self.is_first else torch.empty(whole.shape, dtype=whole.dtype)
        for parent, name, module in self._plain:
            parent._modules[name] = module
        self.finetuned.load_state_dict(own, strict=False, assign=True)
        self.finetuned.cpu()
        for module in self._originals:
            module.to(self._device)
