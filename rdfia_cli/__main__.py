"""`python -m rdfia_cli` is `rdfia`."""

from rdfia_cli.app import main

main()
