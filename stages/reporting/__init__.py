"""What people read about a run: summary, costs, alarms, table, page, plots and cards."""
