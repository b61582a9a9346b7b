"""Training steps of Phase 1 and Phase 2 against a plain loop with the dense module: steps/s, and peak memory of a step.

Both sides do the same work: the same features, losses and AdamW, autograd throughout. The plain one attends as the
definition says (`mirror_pl.retrieval.dense`), holding (B, H, N, K) tensors, and takes the orthogonality of Phase 1 from the
(K, K) Gram matrix. In Phase 2 gradients flow through the frozen bank to the tokens. The backbone is the same on both sides,
so features are random numbers but for the rows that include one, with random weights. Equal loss and gradients are checked
first. Needs torch, numpy, transformers, peft and lightning, but no hydra.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from mirror_pl.detectors import DetectorConfig, MirrorDetector
from mirror_pl.detectors.detector_config import HeadConfig, LoraConfig, MemoryBankConfig
from mirror_pl.detectors.head import DualBranchHead
from mirror_pl.detectors.known_backbones import known_backbone
from mirror_pl.detectors.memory_bank import BankEvidence, MemoryBank
from mirror_pl.modules.objectives import orthogonality_loss, reconstruction_loss
from mirror_pl.retrieval import TokenEvidence, dense
from paired import Row, added_mib, best_device, fresh, matrix_bound, quick, timed

PLAIN, OWN = "plain dense loop", "mirror_pl"
SIDES = (PLAIN, OWN)
ORTHOGONALITY, LABEL_SMOOTHING = 0.01, 0.1
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-2}
"""Of losses and of each gradient, as a share of its norm. In float32 the sides round differently: now and then another of
two all but equal logits is the last that is kept, and gradients differ in more than their last bits."""

Loss = Callable[[str], Tensor]
"""What one side, by its name, makes of a batch."""


class Task:
    """Steps of training on one batch.

    Args:
        parameters: What is trained.
        inputs: Tensors that need gradients, but are not trained.
        loss: Of the batch.
    """

    def __init__(self, parameters: list[nn.Parameter], inputs: list[Tensor], loss: Loss) -> None:
        self.parameters = parameters
        self.inputs = inputs
        self.loss = loss
        # Too slow to change what is learnt: the steps of both sides, on the same weights, stay the same work.
        self.optimizer = torch.optim.AdamW(parameters, lr=1e-12, weight_decay=1e-4)

    def gradients(self, side: str) -> tuple[Tensor, list[Tensor]]:
        """Loss, and gradients for parameters and inputs."""
        self.optimizer.zero_grad()
        for tensor in self.inputs:
            tensor.grad = None
        torch.manual_seed(0)  # dropout
        loss = self.loss(side)
        loss.backward()
        return loss.detach(), [tensor.grad for tensor in (*self.parameters, *self.inputs) if tensor.grad is not None]

    def step(self, side: str) -> None:
        """Make one step."""
        self.gradients(side)
        self.optimizer.step()

    def check(self) -> float:
        """Raise AssertionError unless both sides agree; return the largest difference, as a share of the norm."""
        (plain_loss, plain), (own_loss, own) = [self.gradients(side) for side in SIDES]
        worst = 0.0
        for expected, got in zip((plain_loss, *plain), (own_loss, *own), strict=True):
            if expected.norm() > 0:  # LoRA's A has none as long as its B is zero
                worst = max(worst, float((got - expected).norm() / expected.norm()))
        tolerance = TOLERANCE[plain_loss.dtype]
        assert worst < tolerance, f"{worst} is more than {tolerance}"
        return worst


def random_bank(width: int, device: torch.device, dtype: torch.dtype) -> MemoryBank:
    """The published size; orthogonal initialisation would take longer than the measurement."""
    torch.manual_seed(0)
    with torch.device("meta"):
        bank = MemoryBank(width, MemoryBankConfig())
    bank.to_empty(device=device)
    for parameter in bank.parameters():
        nn.init.normal_(parameter, std=width**-0.5)
    return bank.to(dtype)


def attend_densely(bank: MemoryBank, tokens: Tensor) -> TokenEvidence:
    """Attend by the definition; the slots projected once a batch."""
    keys, values = (_split(layer(bank.memory)) for layer in (bank.k, bank.v))
    evidence = dense(_split(bank.q(tokens)), keys, values, bank.config.top_k)
    return evidence._replace(attended=bank.out(evidence.attended))


def _split(tensor: Tensor) -> Tensor:
    return tensor.unflatten(-1, (MemoryBankConfig().heads, -1)).transpose(-2, -3)


def bank_loss(bank: MemoryBank, tokens: Tensor, side: str) -> Tensor:
    """Loss of Phase 1, as the released code has it."""
    if side == OWN:
        rebuilt = bank.reconstruct(tokens).attended
        return reconstruction_loss(tokens, rebuilt) + ORTHOGONALITY * orthogonality_loss(bank.memory)
    rows = F.normalize(bank.memory, dim=1)
    gram = rows @ rows.T - torch.eye(len(rows), device=rows.device)
    return F.mse_loss(attend_densely(bank, tokens).attended, tokens) + ORTHOGONALITY * torch.linalg.matrix_norm(gram)


def judge(bank: MemoryBank, head: DualBranchHead, tokens: Tensor, cls: Tensor, labels: Tensor, side: str) -> Tensor:
    """Loss of Phase 2, as the released code has it."""
    if side == OWN:
        evidence = bank(tokens)
    else:
        found = attend_densely(bank, tokens)
        means = found.max_weight.mean(dim=(1, 2)), found.entropy.mean(dim=(1, 2))
        evidence = BankEvidence(*means, (tokens - found.attended).mean(dim=1))
    logits = head(torch.stack([evidence.max_weight, evidence.entropy], dim=-1), evidence.mean_residual, cls)
    return F.cross_entropy(logits, labels, label_smoothing=LABEL_SMOOTHING)


def on_features(phase: int, backbone: str, batch: int, device: torch.device, dtype: torch.dtype = torch.float32) -> Task:
    """Steps on random features."""
    config = known_backbone(backbone)
    bank = random_bank(config.width, device, dtype)
    tokens = torch.randn(batch, config.registers + (224 // config.patch_px) ** 2, config.width, device=device).to(dtype)
    if phase == 1:
        return Task(list(bank.train().parameters()), [], lambda side: bank_loss(bank, tokens, side))
    head = DualBranchHead(config.width, HeadConfig()).to(device, dtype)
    labels = torch.arange(batch, device=device) % 2
    bank.eval().requires_grad_(False)
    tokens.requires_grad_()
    cls = tokens.detach()[:, 0].clone().requires_grad_()
    return Task(list(head.parameters()), [tokens, cls], lambda side: judge(bank, head, tokens, cls, labels, side))


def with_backbone(phase: int, backbone: str, batch: int, device: torch.device, dtype: torch.dtype = torch.float32) -> Task:
    """Steps from pixels: Phase 1 on a frozen backbone, Phase 2 through LoRA."""
    config = known_backbone(backbone)
    torch.manual_seed(0)
    detector = MirrorDetector(DetectorConfig(config, lora=None if phase == 1 else LoraConfig())).to(device, dtype)
    detector.requires_grad_(False).eval()
    detector.memory_bank = bank = random_bank(config.width, device, dtype).requires_grad_(phase == 1).train(phase == 1)
    pixels, labels = torch.rand(batch, 3, 224, 224, device=device).to(dtype), torch.arange(batch, device=device) % 2

    def bank_step(side: str) -> Tensor:
        with torch.no_grad():
            tokens = detector.features(pixels).tokens
        return bank_loss(bank, tokens, side)

    def detector_step(side: str) -> Tensor:
        features = detector.features(pixels)
        return judge(bank, detector.head, features.tokens, features.cls, labels, side)

    if phase == 1:
        return Task(list(bank.parameters()), [], bank_step)
    trained = [p.requires_grad_() for name, p in detector.named_parameters() if "lora_" in name or name.startswith("head.")]
    return Task(trained, [], detector_step)


TASKS = {
    "Phase 1, random features": (on_features, 1),
    "Phase 2, random features": (on_features, 2),
    "Phase 1, with the backbone": (with_backbone, 1),
    "Phase 2, with the backbone": (with_backbone, 2),
}


def operations(phase: int, backbone: str, batch: int) -> int:
    """Operations of bank and head that no way to make a step can do without, forward and backward.

    Products with the queries' keys are forward only, as the gradients are of the kept slots alone, which count as none.
    """
    config = known_backbone(backbone)
    tokens, width = batch * (config.registers + (224 // config.patch_px) ** 2), config.width
    slots = MemoryBankConfig().slots
    scores = 2 * tokens * slots * width
    if phase == 2:  # queries, and their gradient
        return scores + 2 * 2 * tokens * width**2
    # Queries and output of tokens, keys and values of slots, and the Gram matrix (D, D): each with two gradients.
    return scores + 3 * (2 * 2 * tokens + 2 * 2 * slots + 2 * slots) * width**2


def memory_of(name: str, side: str, backbone: str, batch: int) -> float:
    """MiB that a step adds to the peak.

    Its gradients are among them, what stays from step to step is not: a step of one image came before.
    """
    device = best_device()
    make, phase = TASKS[name]
    make(phase, backbone, 1, device).step(side)
    task = make(phase, backbone, batch, device)
    task.optimizer.zero_grad()
    for parameter in task.parameters:  # what AdamW keeps from step to step
        parameter.grad = torch.zeros_like(parameter)
    task.optimizer.step()
    task.optimizer.zero_grad()
    return added_mib(lambda: task.step(side), device)


@quick(backbone="tiny", batch=2, memory_batch=2)
def rows(
    backbone: str = "", batch: int = 0, memory_batch: int = -1, without_backbone: int = 0, repeats: int = 5
) -> Iterator[Row]:
    """Steps/s in float32; without settings H+ and a batch of 32 on a GPU, and B, 4 and 8 for memory on a CPU.

    Args:
        backbone: One of `KNOWN_BACKBONES`.
        batch: Images of a step.
        memory_batch: Images of a step whose memory is measured; 0 measures none.
        without_backbone: 1 for random features only.
    """
    device = best_device()
    sizes = ("dinov3_hplus", 32, 32) if device.type == "cuda" else ("dinov3_b", 4, 8)
    backbone, batch, memory_batch = backbone or sizes[0], batch or sizes[1], sizes[2] if memory_batch < 0 else memory_batch
    for name, (make, phase) in TASKS.items():
        if make is with_backbone and without_backbone:
            continue
        exact = make(phase, backbone, 1, device, torch.float64).check()
        task = make(phase, backbone, batch, device)
        equal = f"loss, gradients: equal to {task.check():.0e} of their norm, float64 {exact:.0e}"
        needed = operations(phase, backbone, batch)
        if make is with_backbone:  # besides: what torch counts of the same step, but for the retrieval's part
            with FlopCounterMode(display=False) as counter:
                task.step(PLAIN)
            everything = counter.get_total_flops()
            bare = on_features(phase, backbone, batch, device)
            with FlopCounterMode(display=False) as counter:
                bare.step(PLAIN)
            needed += everything - counter.get_total_flops()
            del bare
        given = {"base": PLAIN, "part": f"{name}, {backbone}, batch {batch}", **matrix_bound(device, torch.float32, needed)}
        for row in timed({side: partial(task.step, side) for side in SIDES}, repeats, device, "steps/s", **given):
            row.note = equal if row.name == OWN else ""
            yield row
        del task
        if make is on_features and memory_batch:
            for side in SIDES:
                mib = fresh(memory_of, name, side, backbone, memory_batch, device=device)
                yield Row(side, "MiB", [mib], PLAIN, part=f"{name}, {backbone}, memory of a step, batch {memory_batch}")
