"""Run records to tables that people read. Never imports torch, so a laptop without it can report."""

from seqdsd.reports.phase_table import best_phase, phase_called, phase_markdown, phase_table

__all__ = ["best_phase", "phase_called", "phase_markdown", "phase_table"]
