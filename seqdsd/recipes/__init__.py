"""Experiments: a frozen Config, run(config) -> RunResult, main()."""
