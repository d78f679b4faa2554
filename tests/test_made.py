"""Tests of MADE: its masks, its exact likelihood and its samples."""

import itertools

import pytest
import torch

from common.errors import UserError
from lightning_modules.made import MADE, autoregressive_masks


@pytest.mark.parametrize("hidden", [[40, 30], [11]])
def test_output_d_depends_on_the_inputs_before_it_and_on_no_other(hidden: list[int]) -> None:
    """The Jacobian is strictly lower triangular, and all such pairs are connected."""
    model = MADE(image_shape=[1, 3, 4], hidden=hidden)
    jacobian = torch.autograd.functional.jacobian(lambda x: model(x[None])[0], torch.rand(12))
    assert torch.equal(jacobian.triu(), torch.zeros(12, 12))
    first, *others = autoregressive_masks(12, hidden)
    paths = first
    for mask in others:
        paths = mask @ paths
    assert torch.equal(paths > 0, torch.ones(12, 12).tril(-1) > 0)


def test_degrees_of_a_narrow_layer_cover_all_pixels() -> None:
    """The last output depends on all other pixels, also with fewer hidden units than pixels."""
    first, second = autoregressive_masks(784, [500])
    assert torch.equal((second @ first)[-1] > 0, torch.arange(784) < 783)


def test_probabilities_of_all_images_sum_to_1() -> None:
    torch.manual_seed(0)
    model = MADE(image_shape=[1, 2, 4], hidden=[20]).double()
    images = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=8))).double()
    x = (images > 0).double()
    probability = model(x).sigmoid()  # Eq. 1, multiplied out
    product = torch.where(x > 0, probability, 1 - probability).prod(1)
    assert product.sum().item() == pytest.approx(1, abs=1e-9)
    torch.testing.assert_close(
        model.float().nll(images.float().view(-1, 1, 2, 4)).neg().exp().double(),
        product,
        atol=1e-6,
        rtol=1e-5,
    )


def test_one_pixel_has_no_order() -> None:
    with pytest.raises(UserError, match="at least 2 pixels"):
        autoregressive_masks(1, [4])


def test_samples_follow_the_likelihood() -> None:
    """Frequencies of all 16 images of 4 pixels in 4,000 samples match exp(-nll)."""
    torch.manual_seed(1)
    model = MADE(image_shape=[1, 2, 2], hidden=[20])
    for parameter in model.parameters():
        parameter.data.mul_(3)
    images = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=4))).view(-1, 1, 2, 2)
    with torch.no_grad():
        expected = model.nll(images).neg().exp()
    assert expected.sum().item() == pytest.approx(1, abs=1e-5)
    samples = model.sample(list(range(4000)))
    counts = torch.stack([(samples == image).all((1, 2, 3)).sum() for image in images])
    chi_square = ((counts - 4000 * expected).square() / (4000 * expected)).sum().item()
    assert chi_square < 37.7  # 15 degrees of freedom, p = .001
    cold = model.sample([0, 1, 2], temperature=1e-4)
    assert torch.equal(cold[0], cold[1])
    assert torch.equal(cold[0], cold[2])


def test_it_learns_that_two_pixels_are_equal() -> None:
    """The loss reaches log 2, the entropy of two equal fair bits, within 2 %."""
    torch.manual_seed(0)
    model = MADE(image_shape=[1, 1, 2], hidden=[16])
    image = torch.tensor([[-1.0, -1.0], [1.0, 1.0]]).view(2, 1, 1, 2)
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    for _ in range(300):
        optimizer.zero_grad()
        loss = model.loss({"image": image})["loss"]
        loss.backward()
        optimizer.step()
    assert loss.item() == pytest.approx(torch.log(torch.tensor(2.0)).item(), rel=0.02)
