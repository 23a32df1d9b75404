"""A model of ours run on packed rows over a paged cache."""

import logging
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from seed_oss.cache import PackedRows, PackedSequence, PagedCache, PagedContext
from seed_oss.engine.batch import ScheduledBatch, ScheduledRow
from seed_oss.engine.disk import BlockFolder
from seed_oss.engine.forward import Forward, PackedModel, RowTraits
from seed_oss.engine.mesh import Ranks, batch_of, numbers_of
from seed_oss.errors import ConfigError, StateError
from seed_oss.models import SeedOssModel
from seed_oss.nn.fused import runs_natively
from seed_oss.nn.fused_step import FusedStep
from seed_oss.nn.told_step import Ahead, Stepped
from seed_oss.ops.triton import builder

_LOG = logging.getLogger(__name__)


class _Stepped(Forward):
    """See Forward; of a step that has computed everything at once."""

    def __init__(self, step: Stepped) -> None:
        super().__init__(step.hidden, None)
        self._step, self.before = step, step.before

    def logits(self, rows: Sequence[int]) -> Tensor:
        """See Forward."""
        logits = self._step.logits
        return logits if list(rows) == list(range(len(logits))) else logits[list(rows)]

    def best(self, rows: Sequence[int]) -> list[int]:
        """See Forward."""
        return [self._step.best[row] for row in rows]

    def lost(self) -> list[bool] | None:
        """See Forward."""
        return self._step.lost


class PagedModel(PackedModel):
    """See PackedModel.

    Args:
        decoder: the model without its head.
        head: from hidden states `[n, hidden_size]` to logits `[n, vocab_size]`, each row's bits its own; None without.
        cache: where keys and values are.
        store: blocks on disk, or None.
        adapters: what rows with an adapter run through instead of `decoder`, by its name.
        mesh: processes that all run what the first of them schedules, each with a model and a cache of its own that
            are equal; None runs here alone.
        steps: by adapter, None for the model itself: what runs one token of each row in one call, logits included.

    Raises:
        ConfigError: the mesh does not go with the model, or with blocks on disk, which only one process reads.
    """

    def __init__(
        self,
        decoder: SeedOssModel,
        head: Callable[[Tensor], Tensor] | None,
        cache: PagedCache,
        store: BlockFolder | None = None,
        adapters: Mapping[str, SeedOssModel] | None = None,
        mesh: DeviceMesh | None = None,
        steps: Mapping[str | None, FusedStep] | None = None,
    ) -> None:
        self._steps = steps or {}
        self._device = decoder.device  # asked for here: in quantized models it takes a walk over modules
        self._ranks = None if mesh is None else Ranks(mesh, self._device)
        if mesh is not None and mesh.size() > 1 and store is not None:
            raise ConfigError(f"cache_dir is set, and mesh has {mesh.size()} ranks; on more than 1 leave cache_dir out")
        self._decoders: dict[str | None, SeedOssModel] = {None: decoder}
        self._decoders.update(adapters or {})
        self._names = (None, *sorted(adapters or {}))
        self._decoder, self._head, self._cache, self._store = decoder, head, cache, store
        self._is_native = runs_natively(decoder)
        self._depends_on_length = decoder.config.rope_parameters["rope_type"] in ("dynamic", "longrope")

    @property
    def head(self) -> Callable[[Tensor], Tensor] | None:
        """As given."""
        return self._head

    @property
    def is_native(self) -> bool:
        """See PackedModel."""
        return self._is_native

    def goes_ahead(self, adapter: str | None) -> bool:
        """See PackedModel. The other ranks of a mesh are told of one token at a time."""
        is_one = self._ranks is None or self._ranks.size == 1
        return adapter in self._steps and is_one and not self._depends_on_length

    def transfer(self, batch: ScheduledBatch) -> bool:
        """See PackedModel."""
        if self._store is None:
            return True
        self._store.save(batch.saves)
        return self._store.load(batch.loads)

    def close(self) -> None:
        """See PackedModel. The other ranks of the mesh end."""
        if self._ranks is not None and self._ranks.size > 1:
            self._ranks.send(())
            self._ranks = None
        if self._store is not None:
            self._store.close()

    def run(self, batch: ScheduledBatch, traits: Sequence[RowTraits]) -> Forward:
        """See PackedModel. All ranks of the mesh run it; only the first one may be asked.

        Raises:
            StateError: this is not the mesh's first rank.
            EngineError: another rank failed.
        """
        ranks = self._ranks
        if ranks is None or ranks.size == 1:
            return self._run(batch, traits)
        if not ranks.is_first:
            raise StateError("this rank does not schedule; call follow(model) here, and run batches on the first rank")
        ranks.send(numbers_of(batch, traits, self._names))
        return ranks.together(lambda: self._run(batch, traits))

    def run_received(self) -> bool:
        """Run the batch that the mesh's first rank sends next; whether there was one, and not the end.

        Raises:
            StateError: this is the first rank, or there is no mesh.
        """
        ranks = self._ranks
        if ranks is None or ranks.is_first:
            raise StateError("this rank schedules, so nobody sends it batches; call run")
        numbers = ranks.receive()
        if not numbers:
            return False
        try:
            ranks.together(lambda: self._run(*batch_of(numbers, self._names)))
        except Exception as error:  # noqa: BLE001 - the first rank knows, and decides
            _LOG.error("a batch from the mesh's first rank failed", exc_info=error)
        return True

    def _run(self, batch: ScheduledBatch, traits: Sequence[RowTraits]) -> Forward:
        """The rows of each adapter, and those without, are a forward of their own."""
        rows = list(zip(batch.rows, traits, strict=True))
        names = dict.fromkeys(one.adapter for one in traits)
        if len(names) == 1:
            return self._forward(next(iter(names)), rows, batch.num_ahead)
        hidden: list[Tensor] = [torch.empty(0)] * len(rows)
        for name in names:
            places = [place for place, one in enumerate(traits) if one.adapter == name]
            lengths = [len(batch.rows[place].token_ids) for place in places]
            parts = self._forward(name, [rows[place] for place in places]).hidden.split(lengths)
            for place, part in zip(places, parts, strict=True):
                hidden[place] = part
        return Forward(torch.cat(hidden), self._head)

    def _forward(
        self, adapter: str | None, rows: Sequence[tuple[ScheduledRow, RowTraits]], num_ahead: int = 0
    ) -> Forward:
        """Rows that run through one decoder."""
        packed = PackedRows(tuple(PackedSequence(row.start, len(row.token_ids), row.block_ids) for row, _ in rows))
        context = PagedContext(self._cache, packed)
        tokens = [token for row, _ in rows for token in row.token_ids]
        step = self._steps.get(adapter) if len(tokens) == len(rows) and not self._depends_on_length else None
        stepped = None if step is None else step.run_packed(tokens, context, _ahead(num_ahead, rows))
        if stepped is not None:
            return _Stepped(stepped)
        device = self._device
        places = [place for row, _ in rows for place in range(row.start, row.start + len(row.token_ids))]
        lens = None
        if self._depends_on_length:
            each = [traits.total_len for row, traits in rows for _ in row.token_ids]
            lens = torch.tensor(each, device=device)
        ids = torch.tensor(tokens, device=device)
        with builder().held():  # all layers of a step run the same kernels
            hidden = self._decoders[adapter].run_packed(ids, torch.tensor(places, device=device), context, lens)
        return Forward(hidden, self._head)


def _ahead(num_ahead: int, rows: Sequence[tuple[ScheduledRow, RowTraits]]) -> Ahead:
    return Ahead(num_ahead, [traits.end_ids for _, traits in rows] if num_ahead else ())
