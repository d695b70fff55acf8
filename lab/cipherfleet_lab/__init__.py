"""The lab: reference iterations, simulations, baselines, attacks and studies."""
