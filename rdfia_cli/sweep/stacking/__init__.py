"""The parts of the stacked executor: what may be stacked, the storage, a step, the updates."""
