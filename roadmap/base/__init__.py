"""What every room uses: errors, the console, signals, processes, atomic files, locks, redaction, tables."""
