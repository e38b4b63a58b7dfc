"""Write reflections, by a model or by rule, and check their claims."""
