"""What people read of a run: summary, table, page, plots, alarms and cards."""
