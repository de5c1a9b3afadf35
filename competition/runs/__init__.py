"""What a run is on disk: its record, its folds, its OOF; and the kinds of run, which predict alike."""
