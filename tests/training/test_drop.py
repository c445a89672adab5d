"""Check which patches a vision tower leaves out in training, and that evaluation leaves out none."""

import pytest
import torch

from modeling_clipscratch.training.towers.drop import add_patch_dropout

FROZEN = "but the vision tower is frozen"
PIXELS = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("vision", ["vit", "deit", "dinov2", "ijepa", "clip_vision_model", "siglip_vision_model"])
def test_towers_see_fewer_patches_in_training_and_all_in_evaluation(make_trainer, vision):
    model = make_trainer({"vision_tower": vision, "patch_size": 2, "vision_pooling": "mean"}).model
    before = model.eval().vision_model(PIXELS).last_hidden_state
    add_patch_dropout(model, 0.75, (8, 8))
    assert torch.equal(model.vision_model(PIXELS).last_hidden_state, before)
    seen = model.train().vision_model(PIXELS).last_hidden_state
    assert before.shape[1] - seen.shape[1] == 12 and seen.shape[1] in (4, 5, 6)


def test_the_class_token_stays_and_patches_are_drawn_for_each_image(make_trainer):
    model = make_trainer({"patch_size": 2}).model.train()
    whole = model.vision_model.embeddings(PIXELS)
    add_patch_dropout(model, 0.5, (8, 8))
    kept = model.vision_model.embeddings(PIXELS)
    assert torch.equal(kept[:, 0], whole[:, 0])
    places = [
        frozenset((whole[n, 1:, None] == kept[n, None, 1:]).all(-1).nonzero()[:, 0].tolist())
        for n in range(len(PIXELS))
    ]
    assert all(len(chosen) == 8 for chosen in places) and len(set(places)) > 60
    counts = torch.tensor([sum(place in chosen for chosen in places) for place in range(16)])
    assert counts.min() > 15 and counts.max() < 49  # 32 each, four standard deviations


@pytest.mark.parametrize(
    ("model", "share", "sentence"),
    [
        ({}, 1.0, "patch_dropout=1.0 is not a share"),
        ({}, -0.1, "patch_dropout=-0.1 is not a share"),
        ({"freeze_vision": True}, 0.5, FROZEN),
        ({"freeze_vision": True, "unfreeze_vision_layers": 1}, 0.5, FROZEN),
        ({"vision_tower": "dinov3_vit"}, 0.5, "a dinov3_vit tower cannot leave patches out; .* choose one of vit, "),
    ],
)
def test_shares_that_do_not_fit_are_refused(make_trainer, model, share, sentence):
    trainer = make_trainer({**model, **({"freeze_text": False} if model else {})})
    with pytest.raises(ValueError, match=sentence):
        add_patch_dropout(trainer.model, share, (8, 8))
