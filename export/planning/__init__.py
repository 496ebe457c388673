"""What fits on the Spark and how long a clip takes there, by arithmetic: nothing in this room measures anything."""
