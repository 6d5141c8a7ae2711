"""What conftest.py switches on: annotations are held to in all packages, shapes where there are any."""

import pytest
import torch
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import TypeCheckError

from seqdsd.decode import greedy_decode
from seqdsd.records import slug


def test_a_shape_that_does_not_fit_is_refused():
    with pytest.raises(TypeCheckError):
        greedy_decode(torch.zeros(2, 3), torch.tensor([2, 3]))


def test_a_plain_type_is_refused_too():
    with pytest.raises(BeartypeCallHintViolation):
        slug(3)
