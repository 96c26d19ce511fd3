"""`rdfia list`: what a pattern names."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize("pattern", ["mlp*/x", "*/no-such-member"])
@pytest.mark.parametrize("group", ["recipes", "models"])
def test_a_pattern_with_a_slash_that_names_nothing_is_a_usage_error(rdfia, group, pattern):
    outcome = rdfia("list", group, pattern)
    assert outcome.code == 2
    assert f"no {group} fit '{pattern}'" in outcome.err
