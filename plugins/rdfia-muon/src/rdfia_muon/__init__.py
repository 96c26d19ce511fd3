"""Muon for rdfia."""
