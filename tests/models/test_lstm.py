"""The LSTM against its equations in a loop of autograd's, against ``nn.LSTM``, and against finite differences."""

import pytest
import torch
from torch import Tensor, nn

from seqdsd.models.lstm import LSTM

TIME, BATCH, INPUT, HIDDEN = 5, 3, 4, 6
BOTH = pytest.mark.parametrize("tanh_output", [False, True])


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def build(*, tanh_output: bool = False, scale: float = 8.0) -> LSTM:
    """In double precision, with weights large enough for gates that open and close."""
    lstm = LSTM(input_size=INPUT, hidden_size=HIDDEN, tanh_output=tanh_output).double()
    with torch.no_grad():
        for parameter in lstm.parameters():
            parameter.mul_(scale)
    return lstm


def random_inputs(time: int = TIME, batch: int = BATCH) -> Tensor:
    return torch.randn(time, batch, INPUT, dtype=torch.double)


def slow_lstm(lstm: LSTM, inputs: Tensor) -> Tensor:
    """The equations, one gate of one step at a time, in NeuralTalk's order of the gates: i, f, o, g."""
    hidden = cell = torch.zeros(inputs.shape[1], HIDDEN, dtype=inputs.dtype)
    states = []
    for x in inputs:
        both = torch.cat((x, hidden), dim=1)
        i, f, o, g = (
            both @ lstm.weight[HIDDEN * k : HIDDEN * (k + 1)].T + lstm.bias[HIDDEN * k : HIDDEN * (k + 1)]
            for k in range(4)
        )
        cell = torch.sigmoid(i) * torch.tanh(g) + torch.sigmoid(f) * cell
        hidden = torch.sigmoid(o) * (torch.tanh(cell) if lstm.tanh_output else cell)
        states.append(hidden)
    return torch.stack(states)


def stepwise(lstm: LSTM, inputs: Tensor) -> Tensor:
    """``LSTM.step`` over all inputs."""
    state, states = None, []
    for x in inputs:
        state = lstm.step(x, state)
        states.append(state[0])
    return torch.stack(states)


def torch_lstm(lstm: LSTM) -> nn.LSTM:
    """``nn.LSTM`` of the same weights: rows in its order i, f, g, o, the second of its two biases 0."""
    module = nn.LSTM(INPUT, HIDDEN, dtype=torch.double)
    rows = torch.cat([torch.arange(HIDDEN) + HIDDEN * gate for gate in (0, 1, 3, 2)])
    with torch.no_grad():
        module.weight_ih_l0.copy_(lstm.weight[rows, :INPUT])
        module.weight_hh_l0.copy_(lstm.weight[rows, INPUT:])
        module.bias_ih_l0.copy_(lstm.bias[rows])
        module.bias_hh_l0.zero_()
    return module


def gradients(outputs: Tensor, *of: Tensor) -> list[Tensor]:
    """Of a random weighting of the outputs."""
    weighting = torch.randn(outputs.shape, generator=torch.Generator().manual_seed(1), dtype=torch.double)
    return list(torch.autograd.grad((outputs * weighting).sum(), of))


@BOTH
@pytest.mark.parametrize(("time", "batch"), [(1, 1), (1, 3), (2, 1), (TIME, BATCH), (21, 2)])
def test_against_the_equations_one_step_at_a_time(tanh_output, time, batch):
    lstm, inputs = build(tanh_output=tanh_output), random_inputs(time, batch).requires_grad_()
    ours, slow = lstm(inputs), slow_lstm(lstm, inputs)
    torch.testing.assert_close(ours, slow)
    of = (inputs, lstm.weight, lstm.bias)
    torch.testing.assert_close(gradients(ours, *of), gradients(slow, *of))


def test_the_gates_of_the_tests_open_and_close():
    """Else gradients through the sigmoids would all look alike."""
    lstm, inputs = build(), random_inputs()
    with torch.no_grad():
        gates = inputs @ lstm.weight[:, :INPUT].T + lstm.bias
    assert gates.sigmoid().min() < 0.1 and gates.sigmoid().max() > 0.9
    assert (slow_lstm(lstm, inputs) - slow_lstm(build(tanh_output=True), inputs)).abs().max() > 0.01


@BOTH
def test_gradients_against_finite_differences(tanh_output):
    lstm, inputs = build(tanh_output=tanh_output), random_inputs().requires_grad_()

    def function(inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return torch.func.functional_call(lstm, {"weight": weight, "bias": bias}, (inputs,))

    assert torch.autograd.gradcheck(function, (inputs, lstm.weight, lstm.bias))


def test_with_the_output_s_tanh_all_is_torch_s_fast_lstm_s(monkeypatch):
    """One kernel call, and the numbers of ``nn.LSTM`` and of the step loop: states and every gradient."""
    lstm, inputs = build(tanh_output=True), random_inputs().requires_grad_()
    reference = torch_lstm(lstm)
    theirs, _ = reference(inputs)
    ours, looped = lstm(inputs), stepwise(lstm, inputs)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(ours, looped)
    of = (inputs, lstm.weight, lstm.bias)
    ours_of, looped_of = gradients(ours, *of), gradients(looped, *of)
    torch.testing.assert_close(ours_of, looped_of)
    grad_inputs, input_weight, recurrent_weight, bias = gradients(
        theirs, inputs, reference.weight_ih_l0, reference.weight_hh_l0, reference.bias_ih_l0
    )
    back = torch.cat([torch.arange(HIDDEN) + HIDDEN * gate for gate in (0, 1, 3, 2)])  # its own inverse
    expected = [grad_inputs, torch.cat((input_weight, recurrent_weight), dim=1)[back], bias[back]]
    torch.testing.assert_close(ours_of, expected)
    calls, fast = [], torch.lstm
    monkeypatch.setattr(torch, "lstm", lambda *args: calls.append(args) or fast(*args))
    assert torch.equal(lstm(inputs), ours) and len(calls) == 1


@BOTH
def test_steps_and_the_whole_agree(tanh_output):
    lstm, inputs = build(tanh_output=tanh_output), random_inputs()
    torch.testing.assert_close(stepwise(lstm, inputs), lstm(inputs))


def test_a_step_gives_hidden_and_cell_state():
    """By hand, with one unit whose gates are all half open."""
    lstm = LSTM(input_size=1, hidden_size=1)
    with torch.no_grad():
        lstm.weight.zero_()
        lstm.weight[3, 0] = 1.0  # g = tanh(input)
        lstm.bias.zero_()
    hidden, cell = lstm.step(torch.tensor([[0.3]]), (torch.tensor([[5.0]]), torch.tensor([[0.8]])))
    assert cell.item() == pytest.approx(0.5 * torch.tanh(torch.tensor(0.3)).item() + 0.5 * 0.8)
    assert hidden.item() == pytest.approx(0.5 * cell.item())


@BOTH
def test_an_item_does_not_depend_on_its_batch(tanh_output):
    lstm, inputs = build(tanh_output=tanh_output), random_inputs()
    alone = [lstm(inputs[:, item : item + 1]) for item in range(BATCH)]
    torch.testing.assert_close(lstm(inputs), torch.cat(alone, dim=1))


@BOTH
def test_a_state_does_not_depend_on_later_inputs(tanh_output):
    lstm, inputs = build(tanh_output=tanh_output), random_inputs()
    torch.testing.assert_close(lstm(inputs)[:2], lstm(inputs[:2]))


def test_a_gradient_that_is_one_number_repeated():
    """``sum().backward()`` sends an expanded tensor without memory of its own."""
    lstm, inputs = build(), random_inputs()
    expected = torch.autograd.grad(slow_lstm(lstm, inputs).sum(), lstm.weight)
    torch.testing.assert_close(torch.autograd.grad(lstm(inputs).sum(), lstm.weight), expected)


def test_the_same_inputs_can_be_gone_over_twice():
    """Nothing that backward needs is overwritten, nor the inputs themselves."""
    lstm, inputs = build(), random_inputs().requires_grad_()
    kept = inputs.detach().clone()
    first, second = (gradients(lstm(inputs), lstm.weight, inputs) for _ in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    outputs = lstm(inputs)
    for _ in range(2):
        outputs.sum().backward(retain_graph=True)
    torch.testing.assert_close(lstm.weight.grad, 2 * torch.autograd.grad(outputs.sum(), lstm.weight)[0])
    assert torch.equal(inputs, kept)


@BOTH
def test_weights_and_biases_start_between_plus_and_minus_a_tenth(tanh_output):
    lstm = LSTM(input_size=40, hidden_size=50, tanh_output=tanh_output)
    assert lstm.weight.shape == (200, 90) and lstm.bias.shape == (200,)
    for parameter in lstm.parameters():
        assert parameter.abs().max() <= 0.1
        assert parameter.min() < -0.095 and parameter.max() > 0.095
        assert parameter.std().item() == pytest.approx(0.2 / 12**0.5, rel=0.15)  # of a uniform distribution


@BOTH
def test_bf16_autocast_stays_near(tanh_output):
    lstm = build(tanh_output=tanh_output, scale=2.0).float()
    inputs = random_inputs().float()
    exact = lstm(inputs)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = lstm(inputs)
    torch.testing.assert_close(rounded.float(), exact, atol=0.02, rtol=0.05)
    [expected] = torch.autograd.grad(exact.sum(), lstm.weight)
    rounded.float().sum().backward()
    assert lstm.weight.grad.dtype == torch.float32
    torch.testing.assert_close(lstm.weight.grad, expected, atol=0.1, rtol=0.1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@BOTH
def test_same_on_the_gpu(tanh_output):
    lstm, inputs = build(tanh_output=tanh_output), random_inputs()
    expected = lstm(inputs)
    expected.sum().backward()
    gradient = lstm.weight.grad
    lstm.zero_grad()
    actual = lstm.cuda()(inputs.cuda())
    actual.sum().backward()
    torch.testing.assert_close(actual.cpu(), expected)
    torch.testing.assert_close(lstm.weight.grad.cpu(), gradient)
