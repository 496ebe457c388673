"""Running a compiled transformer: one small interface, one file per runtime."""
