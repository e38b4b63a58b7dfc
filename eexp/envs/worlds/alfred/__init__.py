"""Games of ALFWorld, played as the packages textworld and alfworld play them, in a fraction of the time."""
