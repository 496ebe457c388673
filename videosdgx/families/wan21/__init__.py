"""Wan 2.1: text to video, and to single images."""
