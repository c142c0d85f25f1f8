"""Checks of a model: does it do what vniah expects, and does vniah compute what it computes?"""
