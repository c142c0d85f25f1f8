"""Kinds of layer of a decoder: how each reads what came before its rows, and what it keeps."""
