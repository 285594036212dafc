"""The weight average against torch's and closed forms."""

import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from convzoo.training.ema import ModelEma
from modeling import CNN, CNNConfig

TINY = {"hidden_sizes": [8, 8], "depths": [1, 1], "embedding_size": 4, "num_labels": 3}


def tiny_cnn():
    torch.manual_seed(0)
    return CNN(CNNConfig(stem="small", **TINY)).to(memory_format=torch.channels_last)


def train_steps(model, count, after):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(count):
        torch.manual_seed(step)
        model(torch.randn(4, 3, 8, 8)).logits.square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        after()


def test_the_average_is_torchs_with_batch_norm_statistics():
    model = tiny_cnn()
    ema = ModelEma(model, decay=0.8, warmup=False)
    theirs = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.8), use_buffers=True)
    theirs.update_parameters(model)  # its first update copies

    def after():
        ema.update(model)
        theirs.update_parameters(model)

    train_steps(model, 6, after)
    expected = theirs.module.state_dict()
    floating = {name for name, value in expected.items() if value.is_floating_point()}
    assert set(ema.averages) == floating and len(floating) < len(expected)
    for name, average in ema.averages.items():
        torch.testing.assert_close(average, expected[name], rtol=1e-6, atol=1e-7)
        assert average.stride() == model.state_dict()[name].stride()  # or updates are slow


def test_the_decay_warms_up_in_closed_form():
    model = torch.nn.Linear(1, 1, bias=False)
    values, expected = torch.linspace(1, 4, 30, dtype=torch.float64).tolist(), 0.0
    with torch.no_grad():
        model.weight.fill_(0)
    ema = ModelEma(model, decay=0.6)
    for done, value in enumerate(values):
        with torch.no_grad():
            model.weight.fill_(value)
        ema.update(model)
        decay = min(0.6, (1 + done) / (10 + done))  # 0.1, 2/11, 3/12, ... 0.6 from the 13th on
        expected = decay * expected + (1 - decay) * value
        assert ema.averages["weight"].item() == pytest.approx(expected, rel=1e-5)


def test_the_model_has_the_average_in_the_block_and_its_own_bits_after_it():
    model = tiny_cnn()
    ema = ModelEma(model, decay=0.5)
    train_steps(model, 3, lambda: ema.update(model))
    own = {name: value.clone() for name, value in model.state_dict().items()}
    parameters = list(model.parameters())
    average = {name: value.clone() for name, value in ema.averages.items()}

    def evaluation_that_fails():
        with ema.applied_to(model):
            for name, value in model.state_dict().items():
                assert torch.equal(value, average.get(name, own[name])), name
            raise KeyError("an evaluation fails")

    with pytest.raises(KeyError):
        evaluation_that_fails()
    assert any(not torch.equal(average[name], own[name]) for name in average)
    for name, value in model.state_dict().items():
        assert torch.equal(value, own[name]), name
    for name, value in ema.averages.items():
        assert torch.equal(value, average[name]), name
    assert all(p is q for p, q in zip(parameters, model.parameters(), strict=True))


def test_what_the_block_changes_is_changed_in_the_average():
    """As averaging the batch-norm statistics of several processes does."""
    model = tiny_cnn()
    ema = ModelEma(model, decay=0.5)
    with ema.applied_to(model), torch.no_grad():
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.fill_(7)
    changed = [name for name, value in ema.averages.items() if (value == 7).all()]
    assert changed == [name for name, _ in model.named_buffers() if name.endswith("running_mean")]
    assert not any((b == 7).all() for _, b in model.named_buffers())


def test_it_goes_on_bit_for_bit(tmp_path):
    model = tiny_cnn()
    whole, first = ModelEma(model, 0.9), ModelEma(model, 0.9)
    train_steps(model, 2, lambda: (whole.update(model), first.update(model)))
    torch.save(first.state_dict(), tmp_path / "ema.pt")
    second = ModelEma(tiny_cnn(), 0.9)
    second.load_state_dict(torch.load(tmp_path / "ema.pt", weights_only=True))
    train_steps(model, 2, lambda: (whole.update(model), second.update(model)))
    for name, value in whole.averages.items():
        assert torch.equal(value, second.averages[name]), name


def test_the_average_of_a_half_precision_model_is_float32():
    model = torch.nn.Linear(4, 2).bfloat16()
    ema = ModelEma(model, decay=0.999, warmup=False)
    start = ema.averages["weight"].clone()
    with torch.no_grad():
        model.weight.add_(1)
    ema.update(model)
    step = (model.weight.float() - start) * 0.001  # lost in bfloat16's eight bits
    torch.testing.assert_close(ema.averages["weight"], start + step, rtol=1e-6, atol=1e-7)


def test_the_state_of_another_model_is_refused():
    ema = ModelEma(torch.nn.Linear(2, 2), 0.9)
    other = ModelEma(torch.nn.Linear(2, 2, bias=False), 0.9).state_dict()
    with pytest.raises(ValueError, match="on one side only: bias. Load the state"):
        ema.load_state_dict(other)


@pytest.mark.gpu
def test_on_a_gpu_it_is_the_average_of_a_cpu():
    model, copy = tiny_cnn(), tiny_cnn().cuda()
    ours, theirs = ModelEma(copy, 0.9), ModelEma(model, 0.9)
    with torch.no_grad():
        for number, (p, q) in enumerate(zip(model.parameters(), copy.parameters(), strict=True)):
            p.add_(number)
            q.add_(number)
    ours.update(copy)
    theirs.update(model)
    with ours.applied_to(copy):
        for name, value in copy.state_dict().items():
            torch.testing.assert_close(
                value.cpu().float(), theirs.averages.get(name, value.cpu().float())
            )
