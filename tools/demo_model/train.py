"""Train the demo model: a llama of 5.5 million weights, in plain PyTorch.

    python train.py --data data --out model.npz                  # one GPU, minutes; README.md has our runs
    python train.py --data data --out model.npz --steps 20 --device cpu --batch 2 --context 128

Modules carry GGUF's tensor names, so the saved arrays need no renaming on the way to llama.cpp.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Shape:
    """Sizes in values; `context` in tokens."""

    vocab: int = 4096
    context: int = 2048
    layers: int = 6
    width: int = 256
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 64
    ff: int = 704
    rope_base: float = 10_000.0
    norm_eps: float = 1e-5


def rope_angles(shape: Shape, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines, each [context, head_dim / 2], of position times frequency."""
    frequency = shape.rope_base ** (-torch.arange(0, shape.head_dim, 2, device=device) / shape.head_dim)
    angle = torch.outer(torch.arange(shape.context, device=device), frequency)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (x0, x1), (x2, x3), … of [batch, heads, tokens, head_dim] by their angles.

    Neighbours form a pair, as in Meta's llama and llama.cpp's "norm" rope. Hugging Face pairs the two
    halves instead, and its converter permutes the rows of Q and K back; we have nothing to permute.
    """
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2).type_as(x)


def linear(inputs: int, outputs: int) -> nn.Linear:
    return nn.Linear(inputs, outputs, bias=False)


class Block(nn.Module):
    def __init__(self, shape: Shape, dropout: float) -> None:
        super().__init__()
        self.shape, self.dropout = shape, dropout
        query, key = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        self.attn_norm = nn.RMSNorm(shape.width, shape.norm_eps)
        self.attn_q = linear(shape.width, query)
        self.attn_k = linear(shape.width, key)
        self.attn_v = linear(shape.width, key)
        self.attn_output = linear(query, shape.width)
        self.ffn_norm = nn.RMSNorm(shape.width, shape.norm_eps)
        self.ffn_gate = linear(shape.width, shape.ff)
        self.ffn_up = linear(shape.width, shape.ff)
        self.ffn_down = linear(shape.ff, shape.width)

    def attention(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        def split(y: Tensor) -> Tensor:
            return y.unflatten(-1, (-1, self.shape.head_dim)).transpose(1, 2)

        q = rotate(split(self.attn_q(x)), cos, sin)
        k = rotate(split(self.attn_k(x)), cos, sin)
        y = F.scaled_dot_product_attention(q, k, split(self.attn_v(x)), is_causal=True, enable_gqa=True)
        return self.attn_output(y.transpose(1, 2).flatten(-2))

    def feed_forward(self, x: Tensor) -> Tensor:
        return self.ffn_down(F.silu(self.ffn_gate(x)) * self.ffn_up(x))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """[batch, tokens, width] -> the same."""

        def drop(y: Tensor) -> Tensor:
            return F.dropout(y, self.dropout, self.training)

        x = x + drop(self.attention(self.attn_norm(x), cos, sin))
        return x + drop(self.feed_forward(self.ffn_norm(x)))


class Llama(nn.Module):
    def __init__(self, shape: Shape, dropout: float = 0.0) -> None:
        super().__init__()
        self.shape = shape
        self.token_embd = nn.Embedding(shape.vocab, shape.width)  # also the output layer: 2 MB saved
        self.blk = nn.ModuleList(Block(shape, dropout) for _ in range(shape.layers))
        self.output_norm = nn.RMSNorm(shape.width, shape.norm_eps)
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                into_residual = name.endswith(("attn_output.weight", "ffn_down.weight"))
                nn.init.normal_(weight, std=0.02 / math.sqrt(2 * shape.layers) if into_residual else 0.02)

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy, nats a token; both arguments [batch, tokens]."""
        cos, sin = (angles[: tokens.shape[1]] for angles in rope_angles(self.shape, tokens.device))
        x = self.token_embd(tokens)
        for block in self.blk:
            x = block(x, cos, sin)
        logits = F.linear(self.output_norm(x), self.token_embd.weight)
        return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())


def windows(data: Tensor, starts: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Inputs and next-token targets, [len(starts), length] each."""
    rows = data[starts[:, None] + torch.arange(length + 1, device=data.device)].long()
    return rows[:, :-1], rows[:, 1:]


@torch.no_grad()
def held_out_loss(model: nn.Module, data: Tensor, length: int, batch: int) -> float:
    """Mean loss over consecutive full windows, nats a token."""
    model.eval()
    starts = torch.arange(0, len(data) - length, length, device=data.device)
    parts = [(model(*windows(data, part, length)).item(), len(part)) for part in starts.split(batch)]
    model.train()
    return sum(loss * n for loss, n in parts) / sum(n for _, n in parts)


def optimizer_for(model: nn.Module, rate: float, decay: float) -> torch.optim.Optimizer:
    """AdamW; norms (vectors) are not decayed."""
    weights = list(model.parameters())
    groups = [
        {"params": [w for w in weights if w.dim() == 2], "weight_decay": decay},
        {"params": [w for w in weights if w.dim() == 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.95), fused=weights[0].is_cuda)


def rate_at(step: int, steps: int, warmup: int = 200) -> float:
    """Share of the peak learning rate: a linear rise, then a cosine down to a hundredth."""
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return 0.01 + 0.99 * (1 + math.cos(math.pi * progress)) / 2


def load_tokens(paths: list[Path], device: torch.device) -> Tensor:
    """All tokens of some files in a row. int16 holds ids below 4096 and, unlike uint16, can be indexed."""
    tokens = np.concatenate([np.fromfile(path, np.uint16) for path in paths])
    return torch.from_numpy(tokens.astype(np.int16)).to(device)


def line_starts(data: Tensor, tokenizer: Path, last: int) -> Tensor:
    """Places up to `last` where a text line begins."""
    newline = json.loads(tokenizer.read_text("utf-8"))["model"]["vocab"]["Ċ"]  # byte-level BPE's "\n"
    starts = (data == newline).nonzero().flatten() + 1
    return starts[starts <= last]


def load(model: Llama, path: Path) -> None:
    arrays = np.load(path)
    model.load_state_dict({name: torch.from_numpy(arrays[name]) for name in model.state_dict()})


def save(model: Llama, path: Path) -> None:
    """GGUF-named arrays (matrices f16, norms f32) and the shape as JSON."""
    arrays = {
        name: w.detach().cpu().numpy().astype(np.float16 if w.dim() == 2 else np.float32)
        for name, w in model.named_parameters()
    }
    np.savez(path, shape=json.dumps(asdict(model.shape)), **arrays)


def train(args: argparse.Namespace) -> None:
    torch.manual_seed(args.seed)
    device = torch.device(args.device)
    data = load_tokens([args.data / f"{part}.bin" for part in args.parts], device)
    valid_data = load_tokens([args.data / "valid.bin"], device)
    if min(len(data), len(valid_data)) <= args.context:
        raise SystemExit(f"the corpus is shorter than one window of {args.context} tokens")
    last = len(data) - args.context - 1
    # A prompt begins where a line begins. A model that has seen windows begin anywhere doubts it, and indents
    # the body of a first "def" by eight.
    anywhere = torch.arange(last + 1, device=device)
    choices = line_starts(data, args.data / "tokenizer.json", last) if args.line_starts else anywhere

    model = Llama(Shape(context=max(args.context, Shape.context)), args.dropout).to(device)
    if args.init:
        load(model, args.init)
    optimizer = optimizer_for(model, args.rate, args.decay)
    on_gpu = device.type == "cuda"
    step_model = torch.compile(model) if on_gpu else model
    half = torch.autocast(device.type, torch.bfloat16, enabled=on_gpu)
    torch.set_float32_matmul_precision("high")

    log, best, began = [], math.inf, time.perf_counter()
    for step in range(args.steps):
        for group in optimizer.param_groups:
            group["lr"] = args.rate * rate_at(step, args.steps)
        starts = choices[torch.randint(len(choices), (args.batch,), device=device)]
        with half:
            loss = step_model(*windows(data, starts, args.context))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if (step + 1) % args.report == 0 or step + 1 == args.steps:
            with half:
                valid = held_out_loss(model, valid_data, args.context, 8)
            tokens, seconds = (step + 1) * args.batch * args.context, time.perf_counter() - began
            log.append(
                {
                    "step": step + 1,
                    "tokens": tokens,
                    "seconds": round(seconds, 1),
                    "train": round(loss.item(), 4),
                    "valid": round(valid, 4),
                }
            )
            print(json.dumps(log[-1]), flush=True)
            if valid < best:  # a small corpus can be overlearned, most of all when going on from --init
                best = valid
                save(model, args.out)
    args.out.with_suffix(".json").write_text("\n".join(map(json.dumps, log)) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="prepare.py's output folder")
    parser.add_argument("--out", type=Path, required=True, help="the best weights (.npz); the log goes beside")
    parser.add_argument("--parts", nargs="+", default=["library", "tests"], help="what to train on")
    parser.add_argument("--init", type=Path, help="weights to go on from")
    parser.add_argument("--line-starts", action="store_true", help="windows begin where lines do")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--steps", type=int, default=12_000)
    parser.add_argument("--batch", type=int, default=32, help="windows a step")
    parser.add_argument("--context", type=int, default=Shape.context, help="tokens a window")
    parser.add_argument("--rate", type=float, default=3e-3, help="peak learning rate")
    parser.add_argument("--decay", type=float, default=0.1, help="weight decay")
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--report", type=int, default=250, help="steps between two lines of the log")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
