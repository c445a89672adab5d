"""Measure the gradient error of gradient accumulation with a second forward pass, on tiny float64 towers.

python -m benchmarks.accumulation_error --seeds 50

Accumulation as in open_clip (`--accum-freq`, `open_clip_train/train.py`): all K micro-batches are encoded without
gradients and their features are kept. Then each is encoded again, with new dropout, and the loss of the whole matrix
of its new features and the kept ones of the others is differentiated; the K gradients are added. So K losses of K
different batches are differentiated, none of which is the loss of one draw.

Compared are `g`, the gradient of the loss of the whole batch with the draws of the second pass; `accumulated`, the same
micro-batches with the same second draws, each among the first draws of the others; and `chunked`, ClipScratch, which
replays the draws, against the plain batch with those draws.

1. Error of one step: ||accumulated - g|| / ||g||, over the weights of towers and heads, for each seed.
2. Noise or bias: the mean of (accumulated - g) over the seeds, beside the length that it would have by chance if its
   expectation were zero. No bias in the weights is expected, because the draws of the micro-batches are independent and
   equally distributed. Then the ratio is near 1; the difference lies in few directions, so 1.5 is plausible with 50
   seeds (with 1,000 it was 0.98).
3. The temperature: each of the K losses gives it a whole gradient, so their sum is K times too large, with or without
   dropout.

For scale, `dropout itself` is ||g - mean g|| / ||mean g||, how much the gradients of two draws differ anyway, and
`spread` is the standard deviation of accumulated gradients divided by that of `g`.
"""

import torch

from modeling_clipscratch.cli.command_line import run_command
from modeling_clipscratch.hub.losses_clipscratch import contrastive_logits, contrastive_loss
from modeling_clipscratch.training.loss.tiled_loss import global_loss
from tests.training import parity

from .reporting import machine, parser_of, print_table, save_figures

TEMPERATURE = "logit_scale"
WORDS = ("input_ids", "attention_mask")


def inputs_of(case):
    batch = parity.batch_of(case)
    return {name: batch[name] for name in ("pixel_values", *WORDS)}, batch["group"]


def encode(model, inputs, part, seed):
    """Encode one micro-batch with the draws of a seed."""
    torch.manual_seed(seed)
    output = model(**{name: tensor[part] for name, tensor in inputs.items()}, return_logits=False)
    return output.image_embeds, output.text_embeds


def loss_of(model, features, group):
    images, texts = (torch.cat(side) for side in zip(*features, strict=True))
    logits = contrastive_logits(images, texts, model.clamped_logit_scale())
    return contrastive_loss(logits, loss="softmax", group=group)


def gradients(model):
    """Return (gradient of the weights as one vector, of the temperature) and clear them."""
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return torch.cat([g.flatten() for name, g in found.items() if name != TEMPERATURE]), found[TEMPERATURE].item()


def one_draw(model, inputs, group, parts, seed):
    """Differentiate the loss of all micro-batches at once, with their second draws: the exact gradient."""
    loss = loss_of(model, [encode(model, inputs, part, draw) for part, draw in draws_of(parts, seed, 2)], group)
    loss.backward()
    return loss.item(), *gradients(model)


def accumulated(model, inputs, group, parts, seed):
    """Make both passes; return the mean of the K losses and the sums of their gradients."""
    with torch.no_grad():
        kept = [encode(model, inputs, part, draw) for part, draw in draws_of(parts, seed, 1)]
    losses = []
    for j, (part, draw) in enumerate(draws_of(parts, seed, 2)):
        fresh = encode(model, inputs, part, draw)
        loss = loss_of(model, [*kept[:j], fresh, *kept[j + 1 :]], group)
        loss.backward()
        losses.append(loss.item())
    return sum(losses) / len(losses), *gradients(model)


def draws_of(parts, seed, pass_number):
    return [(part, 1_000_003 * seed + 1000 * pass_number + j) for j, part in enumerate(parts)]


def chunked(model, inputs, group, size, seed):
    """Make the step as ClipScratch does: chunks encoded again for the backward pass, the loss in tiles."""
    torch.manual_seed(seed)
    output = model(**inputs, return_logits=False, encode_chunk_size=size)
    parts = (output.image_embeds, output.text_embeds, output.logit_scale)
    loss, _ = global_loss(*parts, loss="softmax", group=group, tile=5)
    loss.backward()
    return loss.item(), *gradients(model)


def plain(model, inputs, group, size, seed):
    """Make the step with the whole batch in memory; the draws are those of `chunked`, images first, then texts."""
    torch.manual_seed(seed)
    pixels, words = inputs["pixel_values"].split(size), zip(*(inputs[n].split(size) for n in WORDS), strict=True)
    images = [model.get_image_features(part).pooler_output for part in pixels]
    texts = [model.get_text_features(*part).pooler_output for part in words]
    sides = [torch.nn.functional.normalize(torch.cat(side), dim=-1) for side in (images, texts)]
    loss = loss_of(model, [sides], group)
    loss.backward()
    return loss.item(), *gradients(model)


def relative(one, other):
    return ((one - other).norm() / other.norm()).item()


def build(rate, drop_patches):
    """Build the model of `tests/training/parity.py` with another dropout rate."""
    model = parity.build({"loss": "softmax", "dropout": rate > 0, "patch_dropout": drop_patches})
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = rate
    return model


def compare(rate, drop_patches, micro_batch, seeds):
    """Return all figures of one setting, those with a mean and a spread for every seed."""
    model, (inputs, group) = build(rate, drop_patches), inputs_of({})
    parts = [slice(start, start + micro_batch) for start in range(0, parity.ROWS, micro_batch)]
    true = [one_draw(model, inputs, group, parts, seed) for seed in range(seeds)]
    theirs = [accumulated(model, inputs, group, parts, seed) for seed in range(seeds)]
    ours = [chunked(model, inputs, group, micro_batch, seed) for seed in range(seeds)]
    whole = [plain(model, inputs, group, micro_batch, seed) for seed in range(seeds)]
    g, a = (torch.stack([run[1] for run in runs]) for runs in (true, theirs))
    off, length = a - g, g.mean(0).norm()
    temperature = [sum(run[2] for run in runs) for runs in (theirs, true)]
    return {
        "dropout": rate,
        "patch_dropout": 0.5 if drop_patches else 0.0,
        "micro_batches": len(parts),
        "gradient_error": [relative(one[1], other[1]) for one, other in zip(theirs, true, strict=True)],
        "loss_error": [abs(one[0] - other[0]) / other[0] for one, other in zip(theirs, true, strict=True)],
        "chunked_gradient_error": [relative(one[1], other[1]) for one, other in zip(ours, whole, strict=True)],
        "chunked_loss_error": [abs(one[0] - other[0]) / other[0] for one, other in zip(ours, whole, strict=True)],
        "mean_difference": (off.mean(0).norm() / length).item(),
        "mean_difference_by_chance": ((off.var(0).sum() / seeds).sqrt() / length).item(),
        "dropout_itself": ((g - g.mean(0)).norm(dim=1).mean() / length).item(),
        "spread": (a.var(0).sum() / g.var(0).sum()).sqrt().item() if rate else None,
        "temperature_ratio": temperature[0] / temperature[1],
    }


def mean_and_spread(values):
    values = torch.tensor(values, dtype=torch.float64)
    return f"{values.mean():.1e} ± {values.std():.0e}"


def _setting(answer):
    return f"{answer['micro_batches']} micro-batches,\ndropout {answer['dropout']}"


def main(arguments: list[str]) -> None:
    parser = parser_of("accumulation_error")
    parser.add_argument("--seeds", type=int, default=50)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    print(machine())
    hard = [compare(0.3, True, size, options.seeds) for size in (6, 4, 2)]
    columns = [*hard, compare(0.1, False, 4, options.seeds), compare(0.0, False, 4, options.seeds)]
    print(f"\n{parity.ROWS} pairs, {options.seeds} seeds, mean ± standard deviation of the relative error")
    rows = [
        ["micro-batches", *(str(c["micro_batches"]) for c in columns)],
        ["dropout, patch dropout", *(f"{c['dropout']}, {c['patch_dropout']}" for c in columns)],
        ["gradient of the weights, accumulated", *(mean_and_spread(c["gradient_error"]) for c in columns)],
        ["gradient of the weights, ClipScratch", *(mean_and_spread(c["chunked_gradient_error"]) for c in columns)],
        ["loss, accumulated", *(mean_and_spread(c["loss_error"]) for c in columns)],
        ["loss, ClipScratch", *(mean_and_spread(c["chunked_loss_error"]) for c in columns)],
        ["difference of the mean gradients", *(f"{c['mean_difference']:.1e}" for c in columns)],
        ["  expected by chance", *(f"{c['mean_difference_by_chance']:.1e}" for c in columns)],
        ["dropout itself", *(f"{c['dropout_itself']:.1e}" for c in columns)],
        ["spread, accumulated / one draw", *(f"{c['spread']:.2f}" if c["spread"] else "-" for c in columns)],
        ["gradient of the temperature, factor", *(f"{c['temperature_ratio']:.2f}" for c in columns)],
    ]
    print_table(["setting", *"ABCDE"], rows)
    figures = {"pairs": parity.ROWS, "seeds": options.seeds, "settings": columns}
    save_figures(options.output / "accumulation_error.json", figures)


if __name__ == "__main__":
    run_command(main)
