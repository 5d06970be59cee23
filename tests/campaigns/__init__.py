"""Long runs: faults, fuzzing, soak, benchmarks, mutations."""
