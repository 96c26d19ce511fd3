"""The ingredients of the CIFAR-10 speed records for rdfia."""
