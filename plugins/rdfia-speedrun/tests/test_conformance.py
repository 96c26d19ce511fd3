"""It keeps the contract of its kind."""

from rdfia_cli.testing import conformance

test_conforms = conformance("rdfia-speedrun")
