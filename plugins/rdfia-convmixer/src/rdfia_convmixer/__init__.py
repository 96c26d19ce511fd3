"""ConvMixer for rdfia."""
