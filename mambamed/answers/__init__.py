"""What each task answers, and the files it is written to: masks, points, class probabilities."""
