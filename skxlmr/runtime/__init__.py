"""Running a frozen model over columns of texts. Private."""
