"""Which close codes go back to a peer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kairos.wire.websocket import close_code_to_answer


@pytest.mark.parametrize(
    ("code", "answer"),
    [(1000, 1000), (1001, 1000), (1005, 1000), (1006, 1000), (1011, 1000), (1015, 1000), (2999, 1000),
     (3000, 3000), (4001, 4001), (4999, 4999), (5000, 1000), (0, 1000), (-1, 1000)],
)  # fmt: skip
def test_a_code_of_the_protocol_itself_is_answered_as_normal(code: int, answer: int) -> None:
    assert close_code_to_answer(code) == answer


@given(st.integers())
def test_the_answer_is_always_a_code_that_a_program_may_send(code: int) -> None:
    answer = close_code_to_answer(code)
    assert answer == 1000 or 3000 <= answer <= 4999
