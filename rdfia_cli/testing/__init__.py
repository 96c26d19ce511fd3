"""What a plugin's own tests import: the conformance kit.

A test file of a plugin is three lines:

    from rdfia_cli.testing import conformance

    test_conforms = conformance("my-plugin")
"""

from rdfia_cli.testing.subject import NonConformityError, NotApplicableError, Subject
from rdfia_cli.testing.suite import CHECKS, conformance

__all__ = ["CHECKS", "NonConformityError", "NotApplicableError", "Subject", "conformance"]
