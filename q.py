import math
import random

import torch
from sklearn.datasets import load_digits
from torch import nn

torch.manual_seed(0)
random.seed(0)

NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
TEMPLATES = ["a photo of the digit {}", "the number {}", "a handwritten {}", "somebody wrote the digit {}"]

digits = load_digits()  # 1,797 grey images of 8 x 8 pixels, values 0 to 16
images = torch.tensor(digits.images, dtype=torch.float32) / 8 - 1  # -1 to 1
labels = torch.tensor(digits.target)
order = torch.randperm(len(images))
test, train = order[:360], order[360:]
vocabulary = sorted({word for template in TEMPLATES for name in NAMES for word in template.format(name).split()})
NUMBERS = {word: number for number, word in enumerate(vocabulary, start=1)}  # 0 fills up short texts


def tokenize(texts):
    """Texts -> (B, T) numbers of their words."""
    rows = [[NUMBERS[word] for word in text.split()] for text in texts]
    longest = max(len(row) for row in rows)
    return torch.tensor([row + [0] * (longest - len(row)) for row in rows])


WIDTH, PROJECTION = 64, 32


class Tower(nn.Module):
    """Turn (B, T, WIDTH) vectors into (B, PROJECTION) embeddings of unit length."""

    def __init__(self, positions):
        super().__init__()
        self.position = nn.Parameter(0.02 * torch.randn(positions, WIDTH))
        block = nn.TransformerEncoderLayer(WIDTH, nhead=4, dim_feedforward=4 * WIDTH, dropout=0.0, batch_first=True)
        self.blocks = nn.TransformerEncoder(block, num_layers=2, enable_nested_tensor=False)
        self.projection = nn.Linear(WIDTH, PROJECTION, bias=False)

    def forward(self, vectors, mask):
        hidden = self.blocks(vectors + self.position[: vectors.shape[1]], src_key_padding_mask=~mask)
        mean = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)  # over what is not padding
        return nn.functional.normalize(self.projection(mean), dim=-1)


class Clip(nn.Module):
    def __init__(self):
        super().__init__()
        self.patches = nn.Linear(2 * 2, WIDTH)
        self.words = nn.Embedding(len(NUMBERS) + 1, WIDTH)
        self.image_tower, self.text_tower = Tower(positions=16), Tower(positions=8)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def encode_images(self, images):
        squares = nn.functional.unfold(images[:, None], kernel_size=2, stride=2).transpose(1, 2)  # (B, 16, 4)
        return self.image_tower(self.patches(squares), torch.ones(squares.shape[:2], dtype=torch.bool))

    def encode_texts(self, texts):
        tokens = tokenize(texts)
        return self.text_tower(self.words(tokens), tokens != 0)


def clip_loss(image_embeds, text_embeds, logit_scale, labels):
    """(B, PROJECTION) embeddings of B images and their B captions -> the loss, and the least value it can have."""
    logits = image_embeds @ text_embeds.T * logit_scale.clamp(max=math.log(100)).exp()  # (B, B)
    positive = (labels[:, None] == labels[None, :]).float()  # 1 where image and text mean the same
    targets = positive / positive.sum(1, keepdim=True)
    image_to_text = nn.functional.cross_entropy(logits, targets)
    text_to_image = nn.functional.cross_entropy(logits.T, targets)
    return (image_to_text + text_to_image) / 2, positive.sum(1).log().mean()


@torch.no_grad()
def compare_with_classes(model, images):
    """Images -> (B, 10) cosines with the classes, each the mean of the embeddings of its prompts."""
    prompts = [template.format(name) for name in NAMES for template in TEMPLATES]
    classes = model.encode_texts(prompts).view(len(NAMES), len(TEMPLATES), PROJECTION).mean(1)
    return model.encode_images(images) @ nn.functional.normalize(classes, dim=-1).T


STEPS, BATCH = 120, 64
model = Clip()
test = test[labels[test].argsort()]  # sorted by class, for the first image below
before = compare_with_classes(model, images[test])

optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=STEPS, pct_start=0.1)
losses, floors = [], []
for step in range(1, STEPS + 1):
    rows = train[torch.randint(len(train), (BATCH,))]
    texts = [random.choice(TEMPLATES).format(NAMES[label]) for label in labels[rows].tolist()]
    embeds = model.encode_images(images[rows]), model.encode_texts(texts)
    loss, floor = clip_loss(*embeds, model.logit_scale, labels[rows])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()
    losses.append(loss.item())
    floors.append(floor.item())
    if step % 100 == 0:
        print(f"step {step}: loss {loss:.2f}, floor {floor:.2f}")

after = compare_with_classes(model, images[test])
predicted = after.argmax(1)
accuracy = (predicted == labels[test]).float().mean().item()
print(f"zero-shot accuracy on {len(test)} test images: {accuracy:.1%}")
from matplotlib.figure import Figure


def save(figure, name):
    figure.savefig(f"docs/images/how_clip_{name}.png", dpi=130)


figure = Figure(figsize=(8, 4.6), layout="constrained")
for axes, cosines, title in zip(figure.subplots(1, 2), (before, after), ("before training", "after training")):
    shown = axes.imshow(cosines, aspect="auto", cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
    axes.set(title=title, xlabel="prompts of the class", ylabel="test images, sorted by class")
    axes.set_xticks(range(10), NAMES, rotation=60)
    axes.set_yticks([(labels[test] == n).nonzero().float().mean() for n in range(10)], NAMES)
figure.colorbar(shown, ax=figure.axes, label="cosine")
save(figure, "similarity")

figure = Figure(figsize=(8, 3), layout="constrained")
axes = figure.subplots()
axes.plot(losses, color="#0072B2", label="loss")
axes.plot(floors, color="#D55E00", linewidth=0.8, label="floor: ln of the number of right answers")
axes.set(xlabel=f"step (of {BATCH} images)", ylabel="nats", ylim=(2, None))
axes.spines[["top", "right"]].set_visible(False)
axes.legend(frameon=False)
save(figure, "loss")

wrong = (predicted != labels[test]).nonzero()[:, 0].tolist()
right = (predicted == labels[test]).nonzero()[:, 0].tolist()
figure = Figure(figsize=(8, 3.6), layout="constrained")
chosen = [*right[:: len(right) // 7][:7], *wrong[:: max(1, len(wrong) // 7)][:7]]
for axes, row in zip(figure.subplots(2, 7).flat, chosen):
    name, hit = NAMES[predicted[row]], predicted[row] == labels[test[row]]
    axes.imshow(images[test[row]], cmap="gray")
    axes.set_title(name if hit else f"{name}\n(is {NAMES[labels[test[row]]]})", color="#0072B2" if hit else "#D55E00")
for axes in figure.axes:
    axes.axis("off")
save(figure, "predictions")
