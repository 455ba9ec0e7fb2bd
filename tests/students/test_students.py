"""What students give, what they read, and that they have the sizes that the paper prints."""

import re

import pytest
import torch
from torch import nn

from kdlib import students
from kdlib.config import RunConfig
from kdlib.students import STUDENTS, Inputs, Student, megabytes, unit
from kdlib.students.convnets import TextTransformer
from kdlib.students.heads import AttentionSide, CBAMBlock

B, N, L, T = 3, 16, 5, 32
PIXELS = ("resnet", "densenet", "mobilenet")
TEXT_SIDE = {name: "transformer" if name in PIXELS else "teacher" for name in STUDENTS}


def config(method: str, **fields) -> RunConfig:
    small = {"width": 24, "bottleneck": 8, "image_size": 32}
    return RunConfig(teacher="clip", dataset="coco", method=method, **small | fields)


def build(method: str, text: bool = True, vocabulary: int = 9, grid=(4, 4), **fields) -> Student:
    torch.manual_seed(0)
    return students.build(config(method, **fields), Inputs(T, grid, text, vocabulary)).eval()


def batch(seed: int = 0) -> dict:
    """A small batch of everything that a student may read; texts of 5, 3 and 2 tokens."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 0, 0, 0]], dtype=torch.bool)
    return {
        "image": torch.randn(B, T, generator=generator),
        "image_tokens": torch.randn(B, N, T, generator=generator),
        "text": torch.randn(B, T, generator=generator),
        "text_tokens": torch.randn(B, L, T, generator=generator) * mask[..., None],
        "text_mask": mask,
        "text_ids": torch.randint(1, 9, (B, L), generator=generator) * mask,
        "pixels": torch.rand(B, 3, 32, 32, generator=generator),
    }


@pytest.fixture(params=STUDENTS)
def method(request):
    return request.param


@pytest.mark.parametrize("text", [False, True])
def test_student__gives_unit_embeddings_and_maps_that_sum_to_one(method, text):
    student = build(method, text)  # which reads nothing but what it says
    reads = {"features": ["image"], "tokens": ["image", "image_tokens"], "pixels": ["pixels"]}[student.reads]
    out = student({name: batch()[name] for name in reads + ["text", "text_tokens", "text_mask"] * text})
    assert student.self_contained == (method in PIXELS and not text) and ("text" in out) == text
    assert ("image_attention" in out) == student.attends == (method in ("attention", "cbam"))
    assert ("text_attention" in out) == (text and method == "attention")
    for side in {"image", "text"} & set(out):
        assert out[side].shape == (B, 24) and torch.allclose(out[side].norm(dim=-1), torch.ones(B), atol=1e-5)
    if student.attends:
        assert out["image_attention"].shape == (B, N) and (out["image_attention"] >= 0).all()
        assert torch.allclose(out["image_attention"].sum(dim=-1), torch.ones(B), atol=1e-5)


def test_student__takes_any_subset_of_a_batch_in_any_order(method):
    student, order = build(method, text_side=TEXT_SIDE[method]), torch.tensor([2, 0, 1, 2])
    whole, moved = student(batch()), student({name: value[order] for name, value in batch().items()})
    one = student({name: value[1:2] for name, value in batch().items()})
    for made, rows in ((moved, order), (one, slice(1, 2))):
        assert all(torch.allclose(made[name], value[rows], atol=1e-5) for name, value in whole.items())


def test_student__sides_do_not_know_of_each_other(method):
    student, first, other = build(method), batch(0), batch(1)
    mixed = {name: (other if name.startswith("text") else first)[name] for name in first}
    assert torch.equal(student(mixed)["image"], student(first)["image"])
    assert torch.equal(student(mixed)["text"], student(other)["text"])
    assert not torch.allclose(student(first)["text"], student(other)["text"])
    assert not torch.allclose(student(first)["image"], student(other)["image"])


def test_student__some_gradient_reaches_every_parameter(method):
    student, weights = build(method, text_side=TEXT_SIDE[method]).train(), torch.Generator().manual_seed(1)
    sum((value * torch.randn(value.shape, generator=weights)).sum() for value in student(batch()).values()).backward()
    assert not [name for name, parameter in student.named_parameters() if not parameter.grad.abs().sum() > 0]


PAPER = {"width": 256, "bottleneck": 128, "convnet": "full"}
TINY, COCO = Inputs(768, (14, 14)), Inputs(512, (7, 7), text=True)


@pytest.mark.parametrize(
    ("method", "inputs", "fields", "printed", "recomputed"),
    [
        ("projection", TINY, {}, 0.75, 0.751),
        ("bottleneck", TINY, {}, 0.50, 0.501),
        ("attention", TINY, {}, 9.76, 9.763),
        ("resnet", TINY, {"width": 200}, 43.03, 43.026),  # the paper's has an output a class
        ("projection", COCO, {}, 1.00, 1.002),
        ("bottleneck", COCO, {}, 0.75, 0.753),
        ("attention", COCO, {}, 9.02, 9.018),
        ("cbam", COCO, {}, 1.25, 1.253),
        ("densenet", Inputs(512, (7, 7)), {}, 27.53, 27.528),  # the paper counts no text side
        # Ours has a text head of 512 x 256, 0.501, and the paper's a second layer of 256 x 256, 0.251.
        ("resnet", COCO, {}, 43.39 - 0.25 + 0.50, 43.136 + 0.501),
    ],
)
def test_size__is_the_papers(method, inputs, fields, printed, recomputed):
    size = megabytes(students.build(config(method, **PAPER | fields), inputs))
    assert size == pytest.approx(recomputed, abs=0.0006) and round(size, 2) == pytest.approx(printed, abs=0.0051)


def test_feature_students__ignore_the_scale_of_the_teacher():
    for student in (build(method, text=False) for method in STUDENTS if method not in PIXELS):
        scaled = {name: 7 * value for name, value in batch().items() if name.startswith("image")}
        assert torch.allclose(student(batch())["image"], student(scaled)["image"], atol=1e-5)


def test_attention__padding_is_never_looked_at_however_much_there_is():
    student, short, long = build("attention"), batch(), batch()
    long["text_tokens"] = torch.cat([short["text_tokens"], torch.randn(B, 7, T)], dim=1)
    long["text_tokens"][:, :L] = torch.where(short["text_mask"][..., None], short["text_tokens"], 99.0)
    long["text_mask"] = torch.cat([short["text_mask"], torch.zeros(B, 7, dtype=torch.bool)], dim=1)
    assert torch.allclose(student(short)["text"], student(long)["text"], atol=1e-6)
    attention = student(long)["text_attention"]
    assert torch.allclose(attention[:, :L], student(short)["text_attention"], atol=1e-6)
    assert (attention[~long["text_mask"]] == 0).all()


def test_attention__of_one_head_by_hand():
    """softmax(q k' / sqrt(T)) over the pooled feature and the tokens; the map is the tokens' share."""
    torch.manual_seed(0)
    side, pooled, tokens = AttentionSide(3, 2), torch.randn(1, 3), torch.randn(4, 3)  # 8 heads do not divide 3: one
    query, keys = (unit(value) * 3**0.5 for value in (pooled, torch.cat([pooled, tokens])))
    (wq, wk, wv), (bq, bk, bv) = side.attend.in_proj_weight.chunk(3), side.attend.in_proj_bias.chunk(3)
    weights = ((query @ wq.T + bq) @ (keys @ wk.T + bk).T / 3**0.5).softmax(-1)  # (1, 5)
    attended = query + side.attend.out_proj(weights @ (keys @ wv.T + bv))
    embedding, attention = side(pooled, tokens[None])
    assert torch.allclose(attention, weights[:, 1:] / weights[:, 1:].sum(), atol=1e-6)
    assert torch.allclose(embedding, unit(side.project(attended)), atol=1e-6)


def test_cbam__block_by_hand():
    """Two channels on a map of 2 x 2, one hidden unit, a spatial kernel with two weights in its middle."""
    block = CBAMBlock(2)
    block.channels[0].weight.data = torch.tensor([[1.0, -1.0]])
    block.channels[2].weight.data = torch.tensor([[1.0], [2.0]])
    nn.init.zeros_(block.places.weight)
    block.places.weight.data[0, :, 3, 3] = torch.tensor([0.5, 1.0])  # of the mean and of the maximum over channels
    maps = torch.tensor([[[[1.0, 2.0], [3.0, 6.0]], [[0.0, 1.0], [1.0, 2.0]]]])
    # Means 3 and 1, hidden relu(3 - 1) = 2; maxima 6 and 2, hidden relu(6 - 2) = 4: channels get 6 x 1 and 6 x 2.
    scaled = maps * torch.sigmoid(torch.tensor([6.0, 12.0]))[None, :, None, None]
    places = torch.sigmoid(0.5 * scaled.mean(dim=1) + scaled.amax(dim=1))
    refined, found = block(maps)
    assert torch.allclose(found, places, atol=1e-6) and torch.allclose(refined, scaled * places[:, None], atol=1e-6)


def test_cbam__maps_the_tokens_row_by_row_and_finds_the_bright_one():
    student = build("cbam", text=False)
    for block in student.blocks:
        nn.init.zeros_(block.places.weight)
        block.places.weight.data[0, 1, 3, 3] = 5.0  # of the maximum over channels
    tokens = torch.ones(1, N, T)
    tokens[0, 1 * 4 + 2, 0] = 20.0
    attention = student({"image": torch.ones(1, T), "image_tokens": tokens})["image_attention"]
    assert attention.argmax() == 6 and torch.allclose(attention[0, :6], attention[0, 0].expand(6), atol=1e-6)
    assert build("cbam", text=False, grid=(2, 8))(batch())["image_attention"].shape == (B, N)


def test_pixels__are_normalised_as_torchvisions_weights_want_them():
    from torchvision.transforms import functional

    student, pixels = build("resnet", text=False), batch()["pixels"]
    student.image = nn.Flatten()
    expected = functional.normalize(pixels, mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]).flatten(1)
    assert torch.allclose(student({"pixels": pixels})["image"], unit(expected), atol=1e-6)


def test_text__the_order_of_words_is_seen_and_padding_is_not_even_where_there_is_nothing_else():
    side, given = TextTransformer(9, 24).eval(), batch()
    ids, mask = given["text_ids"], given["text_mask"]
    assert torch.allclose(side(ids, mask), side(torch.where(mask, ids, 5), mask), atol=1e-6)
    assert torch.allclose(side(ids, mask)[2:], side(ids[2:, :2], mask[2:, :2]), atol=1e-6)
    assert not torch.allclose(side(ids, mask)[:1], side(ids[:1].flip(1), mask[:1]), atol=1e-3)
    for long in (torch.ones(1, length, dtype=torch.long) for length in (1, 3, 200)):
        assert all(torch.isfinite(side(long, seen)).all() for seen in (long > 1, long > 0))
    assert not torch.equal(side.layers[0].linear1.weight, side.layers[1].linear1.weight)  # layers begin apart


@pytest.mark.parametrize(
    ("method", "model"), [("resnet", "resnet18"), ("densenet", "densenet121"), ("mobilenet", "mobilenet_v3_small")]
)
def test_pretrained__is_loaded_by_weights_only(method, model, monkeypatch):
    """In the file of DenseNet names are those of an older torchvision, as denselayer1.norm.1."""
    from torchvision import models

    torch.manual_seed(3)
    published, asked = models.get_model(model).state_dict(), []

    def get(weights, **how):
        if asked.append(how) or len(asked) > 1:
            raise OSError("no route to host")
        return {re.sub(r"(denselayer\d+\.\w+)(\d)", r"\1.\2", name): published[name] for name in published}

    full, inputs = config(method, convnet="full", pretrained=True), Inputs(T, (4, 4))
    first = next(name for name in published if name.endswith("weight"))
    monkeypatch.setattr(models.WeightsEnum, "get_state_dict", get)
    assert torch.equal(students.build(full, inputs).image.state_dict()[first], published[first])
    assert asked == [{"check_hash": True, "weights_only": True}]
    with pytest.raises(OSError, match=r"cannot be downloaded: no route to host.*set pretrained to false"):
        students.build(full, inputs)


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"method": "projection", "text_side": "transformer"}, ValueError, "Projection has no text side of its own"),
        ({"method": "resnet", "text_side": "transformer", "vocabulary": 0}, ValueError, "have no token ids"),
        ({"method": "projektion"}, KeyError, "no student 'projektion'. Did you mean projection"),
    ],
)
def test_errors__say_what_cannot_be(given, error, words):
    with pytest.raises(error, match=words):
        build(**given)
